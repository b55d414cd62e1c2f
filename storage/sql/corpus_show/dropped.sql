-- Documents that a rule dropped, with the beginnings of their texts.
select
    id, source, step, reason, detail, kept_id, similarity,
    length(text) as characters, left(text, $beginning) as text
from dropped
where
    digest = $digest
    and ($source is null or source = $source)
    and (contains(step, $rule) or contains(reason, $rule))
limit $limit;
