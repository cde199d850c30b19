-- Large values may lie outside the database: in the blob store that the process was given.
--
--   payloads.blob   the name there; the bytes are in one of the two places
--   blob_folder     under which all names of this database begin

ALTER TABLE agentrun.payloads ALTER COLUMN zstd DROP NOT NULL;
ALTER TABLE agentrun.payloads ADD COLUMN blob text;
ALTER TABLE agentrun.payloads ADD CONSTRAINT payloads_in_one_place
    CHECK ((zstd IS NULL) <> (blob IS NULL));

CREATE TABLE agentrun.blob_folder (
    id uuid NOT NULL PRIMARY KEY DEFAULT gen_random_uuid()
);
INSERT INTO agentrun.blob_folder DEFAULT VALUES;

COMMENT ON COLUMN agentrun.payloads.zstd IS
    'The JSON text, compressed with zstd; null if it lies outside.';
COMMENT ON COLUMN agentrun.payloads.blob IS
    'Its name in the blob store, where it lies there, compressed with zstd; else null.';
COMMENT ON TABLE agentrun.blob_folder IS
    'One row: the folder of this database in its blob store, where `prune` removes what no row '
    'names. A copy of the database that writes blobs of its own needs another id first.';
COMMENT ON COLUMN agentrun.blob_folder.id IS 'The folder''s name.';
