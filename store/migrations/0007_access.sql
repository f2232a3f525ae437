-- The assistants of the graphs are everybody's, whatever the metadata of an assistant says.
ALTER TABLE assistant ADD COLUMN is_system boolean NOT NULL DEFAULT false;
UPDATE assistant SET is_system = true WHERE metadata @> '{"created_by": "system"}';
