-- Every lease of a thread has an epoch above this one. What the event log has of an epoch up to it is of
-- another thread, which had this id before and was deleted. It is `created_at` in milliseconds, less one,
-- as that was at first: an import sets `created_at` back. NULL: the thread is older than this column.
ALTER TABLE thread ADD COLUMN base_epoch bigint;
ALTER TABLE thread ALTER COLUMN base_epoch
    SET DEFAULT floor(extract(epoch FROM now()) * 1000)::bigint - 1;

-- The id of the key that its process seals with. NULL: it seals nothing, or is of the version before.
ALTER TABLE worker ADD COLUMN key_id text;

-- Whose turn a job is, empty for nobody's. NULL: its payload says so, as `webhook_owner`; but to read that of
-- each job that is looked at would have all values of a run read, too.
ALTER TABLE job ADD COLUMN owner text;
