-- API keys: who may call as whom. A key itself is not here, only the SHA-256 of its 256 random bits.
CREATE TABLE api_key (
    -- Shown and logged: it says which key, and opens nothing.
    key_id text NOT NULL,
    secret_hash bytea NOT NULL,
    -- The identity of who calls with it.
    owner text NOT NULL,
    name text NOT NULL DEFAULT '',
    roles text[] NOT NULL DEFAULT '{}',
    permissions text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    -- Noted once a minute.
    last_used_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_key_pkey PRIMARY KEY (key_id)
);

CREATE INDEX api_key_owner_idx ON api_key (owner);
