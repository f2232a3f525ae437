-- `priority` of langgraph.json: what was decided for a thread, NULL until its first run is asked for;
-- and for a run that waits, by which it is claimed. Without that key all of it stays NULL, and the
-- index empty.
ALTER TABLE thread ADD COLUMN priority smallint, ADD COLUMN fairness_group text;
ALTER TABLE run ADD COLUMN priority smallint, ADD COLUMN fairness_group text;
CREATE INDEX run_by_priority ON run (priority, fairness_group, not_before, seq)
    WHERE status = 'pending' AND priority IS NOT NULL;
