-- no transaction
-- Sessions are found by any part of their names, by an index. It is on a table of its own: a thread is
-- written several times in each run, its name hardly ever. All of this can be done again, if it fails.
BEGIN;
SET LOCAL lock_timeout = '5s';

-- Three characters from each place of a name on, and the one or two at its end, in the case in which ILIKE
-- compares them. A name that is sealed, or very long, has a mark instead: it may have any part.
CREATE OR REPLACE FUNCTION name_parts(name text) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    lowered text := lower(name);
    parts text[] := '{}';
BEGIN
    IF length(name) > 500 OR name ~ '^tw1:[0-9a-f]{8}:' THEN
        RETURN '''any part''';
    END IF;
    FOR place IN 1..length(lowered) LOOP
        parts := parts || substr(lowered, place, 3);
    END LOOP;
    RETURN array_to_tsvector(parts);
END
$$;

-- What the parts of every name match that has this text in it; names that match need not have it. One or
-- two characters begin a part. Of more, every third place and the last: each character is in one of these.
CREATE OR REPLACE FUNCTION name_query(text text) RETURNS tsquery
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    lowered text := lower(text);
    last_place int := greatest(length(lowered) - 2, 1);
    is_begun boolean := length(lowered) < 3;
    places int[] := ARRAY(SELECT generate_series(1, last_place - 1, 3)) || last_place;
    terms text[] := '{}';
    place int;
BEGIN
    FOREACH place IN ARRAY places LOOP
        terms := terms || (
            '''' || replace(replace(substr(lowered, place, 3), '\', '\\'), '''', '''''') || ''''
            || CASE WHEN is_begun THEN ':*' ELSE '' END
        );
    END LOOP;
    RETURN array_to_string(terms, ' & ') || ' | ''any part''';
END
$$;

-- Of each thread that has a name.
CREATE TABLE IF NOT EXISTS thread_name (
    thread_id text NOT NULL,
    parts tsvector NOT NULL,
    CONSTRAINT thread_name_pkey PRIMARY KEY (thread_id),
    CONSTRAINT thread_name_thread_id_fkey
        FOREIGN KEY (thread_id) REFERENCES thread ON DELETE CASCADE
);
-- Every search reads the list of pending entries from end to end. With a short one a name costs a fifth of
-- what it would without.
CREATE INDEX IF NOT EXISTS thread_name_parts ON thread_name USING gin (parts)
    WITH (gin_pending_list_limit = 64);

-- By triggers, so that it is right whatever statement, of this version or the one before, names a thread.
CREATE OR REPLACE FUNCTION keep_thread_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF session_name(NEW.metadata) = session_name('{}') THEN
        DELETE FROM thread_name WHERE thread_id = NEW.thread_id;
    ELSE
        INSERT INTO thread_name (thread_id, parts)
        VALUES (NEW.thread_id, name_parts(session_name(NEW.metadata)))
        ON CONFLICT (thread_id) DO UPDATE SET parts = EXCLUDED.parts;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER thread_is_named AFTER INSERT ON thread
    FOR EACH ROW WHEN (session_name(NEW.metadata) <> session_name('{}'))
    EXECUTE FUNCTION keep_thread_name();
CREATE OR REPLACE TRIGGER thread_is_renamed AFTER UPDATE OF metadata ON thread
    FOR EACH ROW WHEN (session_name(OLD.metadata) <> session_name(NEW.metadata))
    EXECUTE FUNCTION keep_thread_name();
COMMIT;
-- then
-- Threads of before, some at a time: nothing that is named or deleted meanwhile waits for long.
DO $$
DECLARE
    last_id text := '';
BEGIN
    LOOP
        WITH page AS MATERIALIZED (
            SELECT thread_id, session_name(metadata) AS name
            FROM thread
            WHERE thread_id > last_id
            ORDER BY thread_id
            LIMIT 100
            FOR KEY SHARE
        ), named AS (
            INSERT INTO thread_name (thread_id, parts)
            SELECT thread_id, name_parts(name)
            FROM page
            WHERE name <> session_name('{}')
            ON CONFLICT (thread_id) DO NOTHING
        )
        SELECT max(thread_id) INTO last_id FROM page;
        EXIT WHEN last_id IS NULL;
        COMMIT;
    END LOOP;
END
$$
-- then
ANALYZE thread_name
