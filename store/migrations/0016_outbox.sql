-- What happened to sessions, messages, runs and shares (decision 23). A row of `outbox` is written by the
-- transaction that makes the change; one publisher at a time numbers what has committed and moves it to
-- `change`, from where it is told. Rows of the outbox come and go, so that dead ones are to be cleared
-- away soon. No foreign keys: their checks would lock the threads of runs that are being finished.
CREATE TABLE outbox (
    outbox_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    thread_id text NOT NULL,
    run_id uuid,
    -- of a run that has ended
    run_status text,
    data jsonb,
    -- of a thread that goes with this change: what decides who may see it
    seen_by jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outbox_pkey PRIMARY KEY (outbox_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Which keys of a session's attributes changed; NULL if none did.
CREATE FUNCTION changed_keys(was jsonb, is_now jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT jsonb_agg(key ORDER BY key)
        FROM jsonb_each(was) AS w
        FULL JOIN jsonb_each(is_now) AS i USING (key)
        WHERE w.value IS DISTINCT FROM i.value
    );

CREATE TABLE change (
    -- without a hole when it is written; what is read in this order was published in this order
    seq bigint NOT NULL,
    name text NOT NULL,
    thread_id text NOT NULL,
    data jsonb NOT NULL,
    seen_by jsonb,
    created_at timestamptz NOT NULL,
    CONSTRAINT change_pkey PRIMARY KEY (seq)
);
CREATE INDEX change_by_thread ON change (thread_id, seq);
CREATE INDEX change_created ON change (created_at);

-- One row: whoever holds it publishes.
CREATE TABLE change_head (
    is_only boolean NOT NULL DEFAULT true CHECK (is_only),
    seq bigint NOT NULL DEFAULT 0,
    -- the last change that is not kept any more
    trimmed_through bigint NOT NULL DEFAULT 0,
    -- messages of before are nobody's news
    began_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT change_head_pkey PRIMARY KEY (is_only)
);
INSERT INTO change_head DEFAULT VALUES;

-- How far the messages of a thread were told.
CREATE TABLE change_of_messages (
    thread_id text NOT NULL,
    message_count int NOT NULL,
    checkpoint_id text NOT NULL,
    CONSTRAINT change_of_messages_pkey PRIMARY KEY (thread_id)
) WITH (fillfactor = 80);
-- Those that were written again after their first checkpoint, which are few: a new one costs nothing here.
CREATE INDEX message_changed ON message (conversation_id, last_checkpoint_id)
    WHERE last_checkpoint_id <> checkpoint_id;

-- How far the listeners in processes have come, each under its name, and who calls it now.
CREATE TABLE listener (
    name text NOT NULL,
    seq bigint NOT NULL,
    holder uuid,
    held_until timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT listener_pkey PRIMARY KEY (name)
) WITH (fillfactor = 50);

CREATE TABLE webhook (
    webhook_id uuid NOT NULL,
    -- whose it is, and what of threads that user may see: what decided so when it was last written
    identity text NOT NULL,
    visible jsonb NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL,
    description text,
    -- signs what is sent, so it must be known
    secret bytea NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    -- why the server switched it off
    disabled_reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_pkey PRIMARY KEY (webhook_id)
);
CREATE INDEX webhook_of ON webhook (identity, created_at, webhook_id);

CREATE TABLE webhook_delivery (
    delivery_id uuid NOT NULL DEFAULT gen_random_uuid(),
    webhook_id uuid NOT NULL,
    -- of the change, whose thread this is; what is sent
    seq bigint NOT NULL,
    thread_id text NOT NULL,
    name text NOT NULL,
    body jsonb NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'dead')),
    attempts int NOT NULL DEFAULT 0,
    last_status int,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_delivery_pkey PRIMARY KEY (delivery_id),
    CONSTRAINT webhook_delivery_webhook_id_fkey
        FOREIGN KEY (webhook_id) REFERENCES webhook ON DELETE CASCADE
) WITH (fillfactor = 80);
CREATE INDEX webhook_delivery_of ON webhook_delivery (webhook_id, seq);
CREATE INDEX webhook_delivery_pending ON webhook_delivery (webhook_id) WHERE status = 'pending';
CREATE INDEX webhook_delivery_thread ON webhook_delivery (thread_id);
CREATE INDEX webhook_delivery_updated ON webhook_delivery (updated_at);
