-- How many attachments are somebody's, and how large they are.
CREATE INDEX file_by_owner ON file (owner);
