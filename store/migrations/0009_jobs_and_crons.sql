-- Work beside requests and runs, such as the delivery of a webhook. Claimed by who skips what is
-- locked; rows come and go, so that dead ones are to be cleared away soon.
CREATE TABLE job (
    job_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    kind text NOT NULL,
    payload jsonb NOT NULL,
    attempt int NOT NULL DEFAULT 0,
    -- when it is to be done; while it is being done, when it counts as lost
    due_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT job_pkey PRIMARY KEY (job_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX job_due ON job (due_at, job_id);

CREATE TABLE cron (
    cron_id uuid NOT NULL,
    assistant_id uuid NOT NULL,
    -- NULL: every run has a thread of its own
    thread_id text,
    user_id text NOT NULL,
    schedule text NOT NULL,
    timezone text,
    end_time timestamptz,
    enabled boolean NOT NULL,
    on_run_completed text CHECK (on_run_completed IN ('delete', 'keep')),
    -- what was asked for, as it was asked for
    payload jsonb NOT NULL,
    metadata jsonb NOT NULL,
    -- who asked: what is injected into the runs, and which threads and assistants they may be on
    injected jsonb NOT NULL,
    visible_threads jsonb NOT NULL,
    visible_assistants jsonb NOT NULL,
    -- NULL: never
    next_run_at timestamptz,
    -- why there was no run when the last one was due
    error jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cron_pkey PRIMARY KEY (cron_id),
    CONSTRAINT cron_assistant_id_fkey
        FOREIGN KEY (assistant_id) REFERENCES assistant ON DELETE CASCADE,
    CONSTRAINT cron_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES thread ON DELETE CASCADE
);
CREATE INDEX cron_due ON cron (next_run_at) WHERE enabled;
CREATE INDEX cron_metadata ON cron USING gin (metadata jsonb_path_ops);
CREATE INDEX cron_by_assistant ON cron (assistant_id);
CREATE INDEX cron_by_thread ON cron (thread_id);
CREATE INDEX cron_created ON cron (created_at, cron_id);

-- The time of a cron that a run is for; the backstop against two for one.
ALTER TABLE run ADD COLUMN cron_id uuid, ADD COLUMN scheduled_for timestamptz;
CREATE UNIQUE INDEX run_of_cron ON run (cron_id, scheduled_for) WHERE cron_id IS NOT NULL;
