-- Where the history of a conversation does not go on from the message before: a branch begins there.
-- Made of the checkpoints, like the messages, and in their transactions: only those that go back
-- write here, so that what every run writes stays as it was.
CREATE TABLE message_fork (
    conversation_id text NOT NULL,
    -- the first message of the branch
    seq int NOT NULL,
    -- the message that it answers or follows; -1 for none
    parent_seq int NOT NULL,
    -- the checkpoint that went back
    checkpoint_id text NOT NULL,
    CONSTRAINT message_fork_pkey PRIMARY KEY (conversation_id, seq),
    CONSTRAINT message_fork_conversation_id_fkey
        FOREIGN KEY (conversation_id) REFERENCES thread ON DELETE CASCADE
);
CREATE INDEX message_fork_parent ON message_fork (conversation_id, parent_seq);

-- What people deleted: it was said, as the checkpoints know, and is not shown.
CREATE TABLE message_deletion (
    conversation_id text NOT NULL,
    message_id text NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT message_deletion_pkey PRIMARY KEY (conversation_id, message_id),
    CONSTRAINT message_deletion_conversation_id_fkey
        FOREIGN KEY (conversation_id) REFERENCES thread ON DELETE CASCADE
);

-- Which run a key of a caller stands for. The run may have yet to be made, by whoever comes with the
-- key: its id is the run's primary key, so there is one.
CREATE TABLE idempotency_key (
    conversation_id text NOT NULL,
    caller text NOT NULL,
    key text NOT NULL,
    payload_hash bytea NOT NULL,
    run_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT idempotency_key_pkey PRIMARY KEY (conversation_id, caller, key),
    CONSTRAINT idempotency_key_conversation_id_fkey
        FOREIGN KEY (conversation_id) REFERENCES thread ON DELETE CASCADE
);
CREATE INDEX idempotency_key_expires ON idempotency_key (expires_at);
