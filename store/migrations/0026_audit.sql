-- What was done that matters to security: who did what to whose what, and never in which words.
-- It is only ever added to. PostgreSQL sees to that itself, whoever asks: by triggers, which exist
-- nowhere else here (decision 33). Nothing refers to it or from it, so that it outlives what it tells of.
CREATE TABLE audit (
    audit_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    act text NOT NULL,
    -- the identity of who did it; empty where nobody is authenticated, NULL: the server itself
    actor text,
    -- whose it was done to; empty if it is nobody's
    owner text NOT NULL,
    -- what it was done to: its kind and its id
    subject text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}' CHECK (octet_length(details::text) <= 16384),
    CONSTRAINT audit_pkey PRIMARY KEY (audit_id)
);
CREATE INDEX audit_by_owner ON audit (owner, audit_id);
CREATE INDEX audit_by_actor ON audit (actor, audit_id);
CREATE INDEX audit_by_act ON audit (act, audit_id);
CREATE INDEX audit_by_subject ON audit (subject, audit_id);
CREATE INDEX audit_recorded ON audit (recorded_at);

CREATE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Its end in time (`AUDIT_KEEP_DAYS`) takes the oldest away, and says so; nothing that is young.
    IF TG_OP = 'DELETE' AND current_setting('threadwell.trims_audit', true) = 'on' THEN
        IF OLD.recorded_at < now() - interval '30 days' THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_row_is_kept BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_is_kept();
CREATE TRIGGER audit_is_kept BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_kept();
-- Also for what is replicated or restored with triggers off for others.
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_row_is_kept;
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_kept;

-- Whose a thread is: what authors of an `Auth` call its owner, or the user that a session names.
CREATE FUNCTION thread_owner(metadata jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce(metadata ->> 'owner', metadata ->> 'user_id', '');
