-- Lists of a hundred thousand threads: an index for every order that a search may ask for.
CREATE INDEX thread_created ON thread (created_at, thread_id);
CREATE INDEX thread_state_updated ON thread (state_updated_at, thread_id);
-- and for the few that are in a rare status
CREATE INDEX thread_status ON thread (status, thread_id);
-- archived sessions are old: in the order of time they come after all others
CREATE INDEX thread_archived ON thread (updated_at, thread_id)
    WHERE coalesce(metadata ->> 'status', 'active') = 'archived';

-- PostgreSQL takes an expression for rare unless it is told, and then sorts all threads of a user.
CREATE STATISTICS thread_session
    ON (metadata ->> 'user_id'), (coalesce(metadata ->> 'status', 'active')) FROM thread;
-- How rare a key of the metadata is decides by which index its threads are found.
ALTER TABLE thread ALTER COLUMN metadata SET STATISTICS 500;
