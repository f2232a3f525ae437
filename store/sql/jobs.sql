-- Work that is done beside requests and runs, at least once. While a job is being done, its due_at is
-- when it counts as lost, which whoever does it puts off; its attempt is the fence against whoever had
-- it before. A lease is twice as long with each attempt, up to the longest of its kind: a job that kills
-- its process does not kill one after the other.

-- name: enqueue
INSERT INTO job (kind, payload, owner, due_at)
VALUES (
    %(kind)s, %(payload)s::jsonb, coalesce(%(payload)s::jsonb ->> 'webhook_owner', ''),
    now() + make_interval(secs => %(delay_seconds)s)
)
RETURNING pg_notify('threadwell', %(signal)s);

-- part: taken
-- What taking up the jobs in `next` makes of them: their rows are locked.
UPDATE job
SET attempt = attempt + 1,
    due_at = now() + make_interval(secs => least(
        %(lease)s::double precision * 2 ^ least(attempt, 9),
        (%(longest)s::jsonb ->> kind)::double precision
    ))
FROM next
WHERE job.job_id = next.job_id
RETURNING job.job_id, kind, payload, attempt, created_at;

-- name: claim
WITH next AS MATERIALIZED (
    SELECT job_id
    FROM job
    WHERE due_at <= now() AND kind = ANY(%(kinds)s::text[])
    ORDER BY due_at, job_id
    LIMIT %(slots)s
    FOR UPDATE SKIP LOCKED
)
{taken}

-- name: due_apart
-- Of one kind: the one that is due longest of each user. What is alike with as many under way as there
-- may be is passed over, and costs no more than that: for whose it is, no payload is read that has all
-- values of a run. One look goes so far, and whoever is found has no more room in the next one than now.
SELECT job_id
FROM (
    SELECT DISTINCT ON (of) job_id, due_at
    FROM (
        SELECT job_id, due_at, coalesce(owner, payload ->> 'webhook_owner', '') AS of
        FROM job
        WHERE due_at <= now() AND kind = %(kind)s
            AND NOT EXISTS (
                SELECT
                FROM jsonb_each(%(full)s::jsonb) AS f (key, values)
                WHERE f.values ? coalesce(
                    CASE f.key WHEN 'webhook_owner' THEN owner END, payload ->> f.key, ''
                )
            )
        ORDER BY due_at, job_id
        LIMIT %(look)s
    ) AS due
    ORDER BY of, due_at, job_id
) AS one_each
ORDER BY due_at, job_id
LIMIT %(slots)s;

-- name: claim_these
WITH next AS MATERIALIZED (
    SELECT job_id
    FROM job
    WHERE job_id = ANY(%(job_ids)s::bigint[]) AND due_at <= now()
    ORDER BY due_at, job_id
    FOR UPDATE SKIP LOCKED
)
{taken}

-- name: renew
-- Whoever has one locked meanwhile may wait for another of them: the next time will do.
WITH ours AS MATERIALIZED (
    SELECT job.job_id
    FROM job
    JOIN unnest(%(job_ids)s::bigint[], %(attempts)s::int[]) AS held (job_id, attempt)
        ON held.job_id = job.job_id AND held.attempt = job.attempt
    FOR UPDATE OF job SKIP LOCKED
)
UPDATE job
SET due_at = now() + make_interval(secs => least(
        %(lease)s::double precision * 2 ^ least(attempt - 1, 9),
        (%(longest)s::jsonb ->> kind)::double precision
    ))
FROM ours
WHERE job.job_id = ours.job_id
RETURNING job.job_id;

-- name: done
DELETE FROM job WHERE job_id = %(job_id)s AND attempt = %(attempt)s;

-- name: again
UPDATE job
SET due_at = now() + make_interval(secs => %(delay_seconds)s)
WHERE job_id = %(job_id)s AND attempt = %(attempt)s;

-- name: hand_back
-- It does not count as an attempt.
UPDATE job
SET due_at = now(), attempt = attempt - 1
WHERE job_id = %(job_id)s AND attempt = %(attempt)s
RETURNING pg_notify('threadwell', %(signal)s);
