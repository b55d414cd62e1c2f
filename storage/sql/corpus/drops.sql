-- Why documents went, with the first of each kind.
select step, reason, count(*) as "count", arg_min(id, (filename, file_row_number)) as example_id
from dropped
group by step, reason
order by "count" desc, reason;
