-- Webhooks that users register, and what was sent to them. Each is its owner's alone.

-- name: create
INSERT INTO webhook (webhook_id, identity, visible, url, events, description, secret, enabled)
SELECT %(webhook_id)s::uuid, %(identity)s, %(visible)s::jsonb, %(url)s, %(events)s::text[],
    %(description)s, %(secret)s::bytea, %(enabled)s
WHERE (SELECT count(*) FROM webhook WHERE identity = %(identity)s) < %(most)s
RETURNING webhook_id, url, events, description, enabled, disabled_reason, created_at, updated_at;

-- name: get
SELECT webhook_id, url, events, description, enabled, disabled_reason, created_at, updated_at
FROM webhook
WHERE webhook_id = %(webhook_id)s::uuid AND identity = %(identity)s;

-- name: list
SELECT webhook_id, url, events, description, enabled, disabled_reason, created_at, updated_at
FROM webhook
WHERE identity = %(identity)s
ORDER BY created_at, webhook_id;

-- name: update
-- Who changes it says anew which threads it is of.
UPDATE webhook
SET visible = %(visible)s::jsonb,
    url = coalesce(%(url)s::text, url),
    events = coalesce(%(events)s::text[], events),
    description = CASE WHEN %(describes)s THEN %(description)s::text ELSE description END,
    secret = coalesce(%(secret)s::bytea, secret),
    enabled = coalesce(%(enabled)s::boolean, enabled),
    disabled_reason = CASE WHEN %(enabled)s::boolean IS NULL THEN disabled_reason END,
    updated_at = now()
WHERE webhook_id = %(webhook_id)s::uuid AND identity = %(identity)s
RETURNING webhook_id, url, events, description, enabled, disabled_reason, created_at, updated_at;

-- name: delete
DELETE FROM webhook WHERE webhook_id = %(webhook_id)s::uuid AND identity = %(identity)s;

-- name: deliveries
SELECT d.delivery_id, d.webhook_id, d.seq, d.name, d.body, d.status, d.attempts, d.last_status,
    d.last_error, d.created_at, d.updated_at
FROM webhook_delivery AS d
JOIN webhook AS w ON w.webhook_id = d.webhook_id
WHERE d.webhook_id = %(webhook_id)s::uuid AND w.identity = %(identity)s
    AND (%(status)s::text IS NULL OR d.status = %(status)s::text)
    AND (%(before)s::uuid IS NULL OR d.seq < (
        SELECT o.seq
        FROM webhook_delivery AS o
        WHERE o.delivery_id = %(before)s::uuid AND o.webhook_id = d.webhook_id
    ))
ORDER BY d.seq DESC
LIMIT %(limit)s;

-- name: replay
WITH again AS (
    UPDATE webhook_delivery AS d
    SET status = 'pending', updated_at = now()
    FROM webhook AS w
    WHERE d.delivery_id = %(delivery_id)s::uuid AND d.webhook_id = %(webhook_id)s::uuid
        AND w.webhook_id = d.webhook_id AND w.identity = %(identity)s AND d.status <> 'pending'
    RETURNING d.delivery_id, d.webhook_id, d.seq, d.name, d.body, d.status, d.attempts,
        d.last_status, d.last_error, d.created_at, d.updated_at
), enqueued AS (
    INSERT INTO job (kind, payload)
    SELECT %(kind)s, jsonb_build_object('delivery_id', delivery_id,
        'webhook_id', webhook_id, 'webhook_owner', %(identity)s::text)
    FROM again
    RETURNING pg_notify('threadwell', %(signal)s)
)
SELECT delivery_id, webhook_id, seq, name, body, status, attempts, last_status, last_error,
    created_at, updated_at
FROM again;

-- name: find_delivery
SELECT d.delivery_id, d.webhook_id, d.seq, d.name, d.body, d.status, d.attempts, d.last_status,
    d.last_error, d.created_at, d.updated_at
FROM webhook_delivery AS d
JOIN webhook AS w ON w.webhook_id = d.webhook_id
WHERE d.delivery_id = %(delivery_id)s::uuid AND d.webhook_id = %(webhook_id)s::uuid
    AND w.identity = %(identity)s;

-- name: to_send
SELECT d.delivery_id, d.webhook_id, d.body, w.url, w.secret, w.enabled
FROM webhook_delivery AS d
JOIN webhook AS w ON w.webhook_id = d.webhook_id
WHERE d.delivery_id = %(delivery_id)s::uuid AND d.status = 'pending';

-- name: tried
UPDATE webhook_delivery
SET status = %(status)s, attempts = attempts + 1, last_status = %(last_status)s,
    last_error = %(last_error)s, updated_at = now()
WHERE delivery_id = %(delivery_id)s::uuid AND status = 'pending';

-- name: give_up
UPDATE webhook_delivery
SET status = 'dead', updated_at = now(), last_error = coalesce(last_error, %(reason)s)
WHERE delivery_id = %(delivery_id)s::uuid AND status = 'pending';

-- name: sweep
DELETE FROM webhook_delivery
WHERE delivery_id IN (
    SELECT delivery_id
    FROM webhook_delivery
    WHERE status <> 'pending' AND updated_at < now() - make_interval(secs => %(keep_seconds)s)
    ORDER BY updated_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
);
