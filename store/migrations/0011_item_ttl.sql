-- Lifetimes of items in parts of a minute: LangGraph's column rounds them, and renews by what it has.
ALTER TABLE store ALTER COLUMN ttl_minutes TYPE double precision;
