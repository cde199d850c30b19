-- Every statement of agentrun's that writes, and every COMMIT after an insert, may fail as at
-- SERIALIZABLE any may. What tests write by hand does not.
--
-- The dice are a sequence, which no rollback takes back: a retry throws anew, and one seed throws one
-- series. Of %(sides)s throws one fails.

CREATE SCHEMA faults;
CREATE SEQUENCE faults.dice;
CREATE TABLE faults.rules (seed bigint NOT NULL DEFAULT 0, sides integer NOT NULL);
INSERT INTO faults.rules (sides) VALUES (%(sides)s);
CREATE TABLE faults.statements (query text NOT NULL);
INSERT INTO faults.statements SELECT unnest(%(statements)s::text[]);

-- The failure that the n-th throw is, by its code.
CREATE FUNCTION faults.fell(n bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE mod(abs(hashint8extended(n, seed)), 2 * sides)
               WHEN 0 THEN '40001' WHEN 1 THEN '40P01' END
    FROM faults.rules
$$;

CREATE FUNCTION faults.throw() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    failure text;
BEGIN
    IF TG_WHEN = 'BEFORE' THEN  -- at COMMIT the statement is not known any more
        PERFORM set_config('faults.ours', 'yes', true) FROM faults.statements
        WHERE query = current_query();
    END IF;
    IF current_setting('faults.ours', true) = 'yes' THEN
        failure := faults.fell(nextval('faults.dice'));
        IF failure IS NOT NULL THEN
            RAISE EXCEPTION 'injected: %%, %% of agentrun.%%', TG_NAME, TG_OP, TG_TABLE_NAME
                USING ERRCODE = failure;
        END IF;
        IF TG_WHEN = 'AFTER' THEN  -- the other rows are of the same COMMIT
            PERFORM set_config('faults.ours', 'thrown', true);
        END IF;
    END IF;
    RETURN NULL;
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables
                WHERE schemaname = 'agentrun' AND tablename <> 'migrations' LOOP
        EXECUTE format('CREATE TRIGGER fault BEFORE INSERT OR UPDATE OR DELETE ON agentrun.%%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION faults.throw()', name);
        EXECUTE format('CREATE CONSTRAINT TRIGGER fault_at_commit AFTER INSERT ON agentrun.%%I '
                       'DEFERRABLE INITIALLY DEFERRED FOR EACH ROW '
                       'EXECUTE FUNCTION faults.throw()', name);
    END LOOP;
END $$
