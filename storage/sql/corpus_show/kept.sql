-- Documents that stayed, or those of them that were changed so, with the beginnings of their texts.
select
    id, source, language, url, changes, length(text) as characters, left(text, $beginning) as text
from documents
where
    digest = $digest
    and ($source is null or source = $source)
    and ($change is null or list_contains(changes, $change))
limit $limit;
