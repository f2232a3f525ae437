-- Who waits by priority: a line is a priority and a fairness group, in which the runs that are due
-- longest come first. Found by leaps over the index: this costs what lines there are, not what waits in
-- them.
CREATE VIEW run_line AS
WITH RECURSIVE line AS (
    (
        SELECT priority, fairness_group
        FROM run
        WHERE status = 'pending' AND priority IS NOT NULL
        ORDER BY priority, fairness_group
        LIMIT 1
    )
    UNION ALL
    SELECT following.priority, following.fairness_group
    FROM line
    CROSS JOIN LATERAL (
        SELECT r.priority, r.fairness_group
        FROM run r
        WHERE r.status = 'pending' AND r.priority IS NOT NULL
            AND (r.priority, r.fairness_group) > (line.priority, line.fairness_group)
        ORDER BY r.priority, r.fairness_group
        LIMIT 1
    ) AS following
)
SELECT priority, fairness_group FROM line;

-- How many runs each group has under way.
CREATE VIEW run_group AS
SELECT coalesce(o.fairness_group, t.fairness_group, 'default') AS fairness_group,
    count(*) AS running
FROM run o
JOIN thread t ON t.thread_id = o.thread_id
WHERE o.status = 'running'
GROUP BY 1;
