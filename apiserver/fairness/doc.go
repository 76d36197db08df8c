// Package fairness decides which request is served next when there is more to do than the server should do at once: API
// priority and fairness, after KEP-1040. Flow schemas sort requests into flows and priority levels; a level has seats, and
// a request holds some while it is served; those that find none wait in queues, from which they leave in fair order.
//
// Its invariant: the seats in use by a level's requests are at most its limit, but for a single request wider than the
// limit; every seat that was taken is given back once; and while seats are free that fit the next request, nobody waits.
//
// What decides (match.go, level.go, limits.go, width.go) is pure: time is an argument. Controller adds locks and waiting.
package fairness
