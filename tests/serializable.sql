-- Every statement of agentrun's that writes, and every COMMIT after an insert, may fail as at
-- SERIALIZABLE any may. What tests write by hand does not.
--
-- The dice are a sequence, which no rollback takes back: so a retry throws anew, and one seed throws
-- one series. Of %(sides)s throws one fails.

CREATE SCHEMA faults;
CREATE SEQUENCE faults.dice;
CREATE TABLE faults.rules (seed bigint NOT NULL, sides integer NOT NULL);
INSERT INTO faults.rules VALUES (%(seed)s, %(sides)s);
CREATE TABLE faults.statements (query text NOT NULL);
INSERT INTO faults.statements SELECT unnest(%(statements)s::text[]);

CREATE FUNCTION faults.throw() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    thrown bigint;
BEGIN
    IF TG_WHEN = 'BEFORE' THEN  -- at COMMIT the statement is not known any more
        PERFORM set_config('faults.ours', 'yes', true) FROM faults.statements
        WHERE query = current_query();
    END IF;
    IF current_setting('faults.ours', true) = 'yes' THEN
        SELECT abs(hashint8extended(nextval('faults.dice'), seed) %% (2 * sides)) INTO thrown
        FROM faults.rules;
        IF thrown < 2 THEN
            RAISE EXCEPTION 'injected: %%, %% of agentrun.%%', TG_NAME, TG_OP, TG_TABLE_NAME
                USING ERRCODE = CASE thrown WHEN 0 THEN '40001' ELSE '40P01' END;
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
        EXECUTE format('CREATE TRIGGER a_fault BEFORE INSERT OR UPDATE OR DELETE ON agentrun.%%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION faults.throw()', name);
        EXECUTE format('CREATE CONSTRAINT TRIGGER fault_at_commit AFTER INSERT ON agentrun.%%I '
                       'DEFERRABLE INITIALLY DEFERRED FOR EACH ROW '
                       'EXECUTE FUNCTION faults.throw()', name);
    END LOOP;
END $$
