-- What steps altered in the documents that stay.
select change, count(*) as "count" from (select unnest(changes) as change from documents)
group by change order by "count" desc, change;
