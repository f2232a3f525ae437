-- How many events a run had told, under its epoch, when its end was written down; NULL if it did not
-- end by itself. Whoever follows it then knows whether the log lost more than the end.
ALTER TABLE run ADD COLUMN told int;
