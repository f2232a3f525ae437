-- A session whose name is empty, which only /threads can write, is called as one that has none.
CREATE OR REPLACE FUNCTION session_name(metadata jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce(
        nullif(metadata ->> 'name', ''), nullif(metadata ->> 'generated_title', ''), '新对话'
    );
