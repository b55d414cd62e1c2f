select later, earlier, l.minima as later_minima, e.minima as earlier_minima
from candidates join documents l on l.ordinal = later join documents e on e.ordinal = earlier;
