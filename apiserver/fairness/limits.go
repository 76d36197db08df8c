package fairness

import (
	"math"
	"slices"
	"sort"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
)

// period is how often limits are adjusted while somebody waits.
const period = 10 * time.Second

// smoothing is how much of the smoothed demand is left after a period: half of it after five minutes.
const smoothing = 0.977

// limits are in seats.
type limits struct {
	nominal int
	// lower and upper bound what lending and borrowing make of it.
	lower, upper int
	// width is the most that one request may take.
	width int
}

// sharesOf are what a level's object says of seats. borrow is in percent; negative is no bound.
func sharesOf(conf *flowcontrolv1.PriorityLevelConfiguration) (shares, lend, borrow int) {
	orZero := func(p *int32) int {
		if p == nil {
			return 0
		}
		return int(*p)
	}
	if e := conf.Spec.Exempt; e != nil {
		return orZero(e.NominalConcurrencyShares), orZero(e.LendablePercent), -1
	}
	l := conf.Spec.Limited
	if l.BorrowingLimitPercent == nil {
		return orZero(l.NominalConcurrencyShares), orZero(l.LendablePercent), -1
	}
	return orZero(l.NominalConcurrencyShares), orZero(l.LendablePercent), int(*l.BorrowingLimitPercent)
}

// limitsOf divides the seats of the server by shares, rounded up.
func limitsOf(conf *flowcontrolv1.PriorityLevelConfiguration, total, allShares int) limits {
	shares, lend, borrow := sharesOf(conf)
	var l limits
	if allShares > 0 {
		l.nominal = (total*shares + allShares - 1) / allShares
	}
	percent := func(p int) int { return int(math.Round(float64(l.nominal) * float64(p) / 100)) }
	l.lower, l.upper = l.nominal-percent(lend), l.nominal+total
	if borrow >= 0 {
		l.upper = l.nominal + percent(borrow)
	}
	l.width = maxWidth
	if limited := conf.Spec.Limited; limited != nil && limited.LimitResponse.Queuing != nil {
		l.width = min(l.width, (15*l.nominal+99)/100, l.nominal/int(max(limited.LimitResponse.Queuing.HandSize, 1)))
	}
	l.width = max(l.width, 1)
	return l
}

// demand records how many seats a level's requests take and wait for.
type demand struct {
	since  time.Time
	sum    float64 // of demand by time
	square float64 // of its square by time
	span   float64 // seconds recorded
	still  float64 // seconds since the last change
	last   int
	peak   int
	former int // the peak before the last fold
	// smoothed is in seats.
	smoothed float64
}

func (d *demand) begin(now time.Time) { d.since = now }

// add records that demand was some number of seats for so many seconds.
func (d *demand) add(seconds float64, seats int) {
	d.sum += seconds * float64(seats)
	d.square += seconds * float64(seats) * float64(seats)
	d.span += seconds
	if seats != d.last {
		d.last, d.still = seats, 0
	}
	d.still += seconds
	if d.span >= 2*period.Seconds() { // what was long ago is not to decide
		d.former = d.peak
		d.fold()
	}
}

// peaked notes a demand that may be the highest.
func (d *demand) peaked(seats int) { d.peak = max(d.peak, seats) }

// fold makes what is recorded part of the smoothed demand.
func (d *demand) fold() {
	if d.span <= 0 {
		return
	}
	average := d.sum / d.span
	envelope := average + math.Sqrt(max(d.square/d.span-average*average, 0))
	left := math.Pow(smoothing, d.span/period.Seconds())
	d.smoothed = max(envelope, left*d.smoothed+(1-left)*envelope)
	d.sum, d.square, d.span, d.peak = 0, 0, 0, d.last
}

// take folds and returns the highest demand since the last time, seats being the demand now.
func (d *demand) take(seats int) (peak int) {
	peak = max(d.peak, d.former, seats)
	if d.still >= period.Seconds() {
		peak = max(d.last, seats)
	}
	d.fold()
	d.peak, d.former = seats, 0
	return peak
}

// claim is a level as the division of seats sees it.
type claim struct {
	limits   limits
	exempt   bool
	peak     int
	smoothed float64
}

// floor is what a level is promised: its latest peak within its nominal limit.
func (c *claim) floor() int {
	if c.exempt {
		return max(c.limits.lower, c.peak)
	}
	return max(c.limits.lower, min(c.limits.nominal, c.peak))
}

// divide gives each level its limit for now. The limits of those that are not exempt sum up to what the exempt ones leave,
// where bounds allow it.
func divide(claims []claim) []int {
	out := make([]int, len(claims))
	rest, lowest, promised := 0, 0, 0
	for i := range claims {
		c := &claims[i]
		rest += c.limits.nominal
		if c.exempt {
			rest -= c.floor()
			continue
		}
		lowest += c.limits.lower
		promised += c.floor()
	}
	var bounds []bound
	for i := range claims {
		if c := &claims[i]; !c.exempt {
			bounds = append(bounds, bound{low: float64(c.floor()), high: float64(c.limits.upper), target: max(float64(c.floor()), c.smoothed, 0.001)})
		}
	}
	fair := fairPart(float64(rest), bounds)
	n := 0
	for i := range claims {
		c := &claims[i]
		switch {
		case c.exempt:
			out[i] = c.floor()
			continue
		case rest <= lowest:
			out[i] = c.limits.lower
		case rest <= promised:
			out[i] = c.limits.lower + int(math.Round(float64(c.floor()-c.limits.lower)*float64(rest-lowest)/float64(promised-lowest)))
		default:
			out[i] = int(math.Round(bounds[n].at(fair)))
		}
		n++
	}
	return out
}

// bound is one who gets a multiple of target within low and high.
type bound struct{ low, high, target float64 }

func (b *bound) at(p float64) float64 { return min(max(p*b.target, b.low), max(b.high, b.low)) }

// fairPart finds the multiple of their targets at which all together get sum, or come nearest to it.
func fairPart(sum float64, bounds []bound) float64 {
	total := func(p float64) (s float64) {
		for i := range bounds {
			s += bounds[i].at(p)
		}
		return s
	}
	var bends []float64 // total is linear between these
	for _, b := range bounds {
		bends = append(bends, b.low/b.target, b.high/b.target)
	}
	slices.Sort(bends)
	i := sort.Search(len(bends), func(i int) bool { return total(bends[i]) >= sum })
	switch i {
	case 0:
		return 0
	case len(bends):
		return bends[len(bends)-1]
	}
	below, above := bends[i-1], bends[i]
	rise := total(above) - total(below)
	if rise <= 0 {
		return above
	}
	return below + (above-below)*(sum-total(below))/rise
}
