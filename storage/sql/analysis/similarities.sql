-- How alike near duplicates are to what they repeat; their estimate takes few values.
select similarity, count(*) as documents
from dropped where step = 'near duplicates'
group by similarity order by similarity;
