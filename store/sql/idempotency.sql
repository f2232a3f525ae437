-- name: claim
-- A key that is known stands for what it stood for; one that has expired begins anew.
INSERT INTO idempotency_key AS k (conversation_id, caller, key, payload_hash, run_id, expires_at)
SELECT t.thread_id, %(caller)s::text, %(key)s::text, %(payload_hash)s::bytea, %(run_id)s::uuid,
    now() + make_interval(secs => %(life_seconds)s::double precision)
FROM thread AS t
WHERE t.thread_id = %(session_id)s AND t.metadata @> ANY(%(visible)s::jsonb[])
ON CONFLICT (conversation_id, caller, key) DO UPDATE SET
    payload_hash = CASE WHEN k.expires_at <= now()
        THEN EXCLUDED.payload_hash ELSE k.payload_hash END,
    run_id = CASE WHEN k.expires_at <= now() THEN EXCLUDED.run_id ELSE k.run_id END,
    expires_at = CASE WHEN k.expires_at <= now() THEN EXCLUDED.expires_at ELSE k.expires_at END
RETURNING k.run_id::text, k.payload_hash

-- name: delete_expired
DELETE FROM idempotency_key
WHERE (conversation_id, caller, key) IN (
    SELECT conversation_id, caller, key
    FROM idempotency_key
    WHERE expires_at < now()
    ORDER BY expires_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
