-- The truth, but for what LangGraph keeps in tables of its own (checkpoints, long-term memory).
-- Ids of threads are text, because a session imported from elsewhere keeps its id to the letter.

CREATE TABLE assistant (
    assistant_id uuid NOT NULL,
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb NOT NULL DEFAULT '{}',
    context jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    version int NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT assistant_pkey PRIMARY KEY (assistant_id)
);
CREATE INDEX assistant_metadata ON assistant USING gin (metadata jsonb_path_ops);
CREATE INDEX assistant_created ON assistant (created_at, assistant_id);

CREATE TABLE assistant_version (
    assistant_id uuid NOT NULL REFERENCES assistant ON DELETE CASCADE,
    version int NOT NULL,
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb NOT NULL,
    context jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (assistant_id, version)
);

CREATE TABLE thread (
    thread_id text NOT NULL,
    -- 'busy' exactly while a run is pending or running
    status text NOT NULL DEFAULT 'idle' CHECK (status IN ('idle', 'busy', 'interrupted', 'error')),
    -- what its last run left it in: its status again when no run is pending or running
    settled_status text NOT NULL DEFAULT 'idle'
        CHECK (settled_status IN ('idle', 'interrupted', 'error')),
    metadata jsonb NOT NULL DEFAULT '{}',
    config jsonb NOT NULL DEFAULT '{}',
    interrupts jsonb NOT NULL DEFAULT '{}',
    error jsonb,
    -- Rises with every claim; whoever holds a lower one writes nothing. It begins at the time, so
    -- that a thread made again under the id of one that was deleted goes on above its epochs.
    epoch bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    -- the newest checkpoint of the root namespace, set in that checkpoint's transaction
    head_checkpoint_id text,
    -- messages ever projected: the next one's seq
    message_count int NOT NULL DEFAULT 0,
    -- the head that the message table mirrors; NULL with a head means: project again
    projected_checkpoint_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    state_updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT thread_pkey PRIMARY KEY (thread_id)
) WITH (fillfactor = 70);
CREATE INDEX thread_metadata ON thread USING gin (metadata jsonb_path_ops);
CREATE INDEX thread_updated ON thread (updated_at, thread_id);
-- GET /api/sessions: everyone's, and a user's
CREATE INDEX thread_user ON thread ((metadata ->> 'user_id'), updated_at, thread_id);

CREATE TABLE run (
    run_id uuid NOT NULL,
    -- the order in which runs of a thread are taken up
    seq bigint GENERATED ALWAYS AS IDENTITY,
    thread_id text NOT NULL,
    -- no foreign key: its check would lock the one assistant that every run shares
    assistant_id uuid NOT NULL,
    status text NOT NULL
        CHECK (status IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')),
    multitask_strategy text NOT NULL,
    metadata jsonb NOT NULL,
    kwargs jsonb NOT NULL,
    -- delete the thread when the run ends
    temporary boolean NOT NULL DEFAULT false,
    not_before timestamptz NOT NULL DEFAULT now(),
    attempt int NOT NULL DEFAULT 0,
    epoch bigint,
    first_epoch bigint,
    worker_id uuid,
    cancel_action text CHECK (cancel_action IN ('interrupt', 'rollback')),
    error jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz,
    CONSTRAINT run_pkey PRIMARY KEY (run_id),
    CONSTRAINT run_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES thread ON DELETE CASCADE
) WITH (fillfactor = 80);
-- the backstop: whatever goes wrong above, two runs of a thread never run at once
CREATE UNIQUE INDEX run_one_running ON run (thread_id) WHERE status = 'running';
CREATE INDEX run_in_flight ON run (thread_id, seq) WHERE status IN ('pending', 'running');
CREATE INDEX run_due ON run (not_before, seq) WHERE status = 'pending';
CREATE INDEX run_running_by_worker ON run (worker_id) WHERE status = 'running';
CREATE INDEX run_by_thread ON run (thread_id, created_at DESC);
CREATE INDEX run_by_assistant ON run (assistant_id);

-- A process that runs graphs; it lives as long as it beats.
CREATE TABLE worker (
    worker_id uuid NOT NULL,
    host text NOT NULL,
    pid int NOT NULL,
    version text NOT NULL,
    slots int NOT NULL,
    draining boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT worker_pkey PRIMARY KEY (worker_id)
);

-- The conversation as rows: a projection of the checkpoints, written in their transactions.
-- The seed's columns carry the seed's names.
CREATE TABLE message (
    id text NOT NULL,
    conversation_id text NOT NULL,
    role text NOT NULL,
    content text NOT NULL,
    message_type text NOT NULL DEFAULT 'text',
    meta_data jsonb NOT NULL DEFAULT '{}',
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    -- its place in the history, never reused
    seq int NOT NULL,
    -- its place in the list that the model sees; NULL when it is not in it (removed, summarised)
    position int,
    in_context boolean NOT NULL GENERATED ALWAYS AS (position IS NOT NULL) STORED,
    -- false: only a branch that was left has it
    on_branch boolean NOT NULL DEFAULT true,
    run_id uuid,
    -- the checkpoint that first had it, and the one that last changed it
    checkpoint_id text NOT NULL,
    last_checkpoint_id text NOT NULL,
    CONSTRAINT message_pkey PRIMARY KEY (conversation_id, id),
    CONSTRAINT message_conversation_id_fkey
        FOREIGN KEY (conversation_id) REFERENCES thread ON DELETE CASCADE
);
CREATE INDEX message_history ON message (conversation_id, seq);

-- The seed's conversation: a thread under the names of its design.
CREATE VIEW conversation AS
SELECT
    thread_id AS id,
    metadata ->> 'user_id' AS user_id,
    coalesce(metadata ->> 'name', '新对话') AS name,
    metadata ->> 'chat_type' AS chat_type,
    coalesce(metadata ->> 'status', 'active') AS status,
    created_at AS create_time,
    updated_at AS update_time
FROM thread;
