-- name: state
SELECT is_complete, key_ids FROM encryption;

-- name: begin
INSERT INTO encryption (is_complete, key_ids)
VALUES (%(is_complete)s, %(key_ids)s::text[])
ON CONFLICT (is_only) DO NOTHING;

-- name: use_key
UPDATE encryption SET key_ids = key_ids || %(key_id)s::text, changed_at = now()
WHERE NOT %(key_id)s::text = ANY(key_ids);

-- name: lock
SELECT FROM encryption FOR UPDATE;

-- name: complete
-- After `lock`, so that it sees every worker that is there. One that lives and seals by another key, or
-- by nobody knows which, as those of the version before, may have written nothing for a while.
UPDATE encryption
SET is_complete = true, changed_at = now(),
    key_ids = CASE
        WHEN %(is_all)s AND NOT EXISTS (
            SELECT FROM worker WHERE key_id IS DISTINCT FROM %(key_id)s::text
        ) THEN ARRAY[%(key_id)s::text]
        ELSE key_ids
    END
RETURNING cardinality(key_ids) - 1;

-- name: plain_files
SELECT content_id::text, sha256
FROM file_content
WHERE sealed_sha256 IS NULL AND sha256 IS NOT NULL AND content_id::text > %(after)s
ORDER BY content_id::text
LIMIT %(limit)s;

-- name: hide_file
UPDATE file_content
SET sha256 = %(sha256)s::bytea, sealed_sha256 = %(sealed_sha256)s
WHERE content_id = %(content_id)s::uuid AND sealed_sha256 IS NULL;

-- name: last_indexed
SELECT coalesce(max(number), 0) FROM search_message;

-- name: forget_terms
DELETE FROM search_message
WHERE number IN (
    SELECT number FROM search_message WHERE number <= %(last)s ORDER BY number LIMIT %(limit)s
);

-- name: index_anew
WITH forgotten AS (
    DELETE FROM search_thread
)
UPDATE search_progress SET touched_at = 'epoch', caught_up_at = NULL;
