-- What repeats what: from a document that went to the one named for it.
select id, kept_id, step, similarity from dropped where kept_id is not null;
