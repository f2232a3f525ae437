-- Whose a write is: the epoch of the lease that it was made under. A run that goes on from a
-- checkpoint of an earlier one writes to it, and may replace what is there; taken back, it leaves
-- the checkpoint as it was.
ALTER TABLE checkpoint_writes
    ADD COLUMN epoch bigint,
    -- what the run replaced of an earlier one's
    ADD COLUMN replaced_type text,
    ADD COLUMN replaced_blob bytea,
    ADD COLUMN replaced_epoch bigint;
