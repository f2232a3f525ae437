-- name: state
SELECT is_complete, key_ids FROM encryption;

-- name: begin
INSERT INTO encryption (is_complete, key_ids)
VALUES (%(is_complete)s, %(key_ids)s::text[])
ON CONFLICT (is_only) DO NOTHING;

-- name: use_key
UPDATE encryption SET key_ids = key_ids || %(key_id)s::text, changed_at = now()
WHERE NOT %(key_id)s::text = ANY(key_ids);

-- name: complete
UPDATE encryption
SET is_complete = true, changed_at = now(),
    key_ids = CASE WHEN %(is_all)s THEN ARRAY[%(key_id)s::text] ELSE key_ids END;
