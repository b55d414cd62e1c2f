-- What could not be read.
select source, reason, count(*) as places, first(place order by place) as example
from quarantined
where digest = $digest and ($source is null or source = $source)
group by source, reason
order by places desc, source, reason;
