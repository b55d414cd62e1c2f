-- Who goes, in the order of the documents, and who stays for it.
select d."group", d."row", g.step, k.id as kept_id, g.similarity
from gone g
join documents d on d.ordinal = g.ordinal
left join documents k on k.ordinal = g.kept
order by g.ordinal;
