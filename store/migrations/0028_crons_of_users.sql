-- How many crons are somebody's, and which.
CREATE INDEX cron_by_user ON cron (user_id);
