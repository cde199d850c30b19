-- Every statement that writes, and every COMMIT after one, may fail as at SERIALIZABLE any may.
--
-- The dice are a sequence, which no rollback takes back: so a retry throws anew, and the same seed
-- throws the same numbers. %(seed)s chooses them; one statement in %(sides)s fails, and so many
-- commits of those that have inserted.

CREATE SCHEMA faults;
CREATE SEQUENCE faults.dice;
CREATE TABLE faults.rules (seed bigint NOT NULL, sides integer NOT NULL);
INSERT INTO faults.rules VALUES (%(seed)s, %(sides)s);

CREATE FUNCTION faults.throw() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    thrown bigint;
BEGIN
    SELECT abs(hashint8extended(nextval('faults.dice'), seed) %% (2 * sides)) INTO thrown
    FROM faults.rules;
    IF thrown < 2 THEN
        RAISE EXCEPTION 'injected: %%, %% of agentrun.%%', TG_NAME, TG_OP, TG_TABLE_NAME
            USING ERRCODE = CASE thrown WHEN 0 THEN '40001' ELSE '40P01' END;
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
        EXECUTE format('CREATE CONSTRAINT TRIGGER a_late_fault AFTER INSERT ON agentrun.%%I '
                       'DEFERRABLE INITIALLY DEFERRED FOR EACH ROW '
                       'EXECUTE FUNCTION faults.throw()', name);
    END LOOP;
END $$
