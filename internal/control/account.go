package control

// Account is what a tree was read for since the daemon opened it, and what that
// took.
type Account struct {
	// Hits are reads that the cache answered, Misses those that had to wait and got
	// their bytes, Errors those that failed.
	Hits   int64 `json:"hits"`
	Misses int64 `json:"misses"`
	Errors int64 `json:"errors"`
	// Late are waits for chunks that a profile had asked for and that were still on
	// their way, Unknown those for chunks that it had not asked for. Both are counted
	// during a start that had a profile.
	Late    int64 `json:"late"`
	Unknown int64 `json:"unknown"`
	// Bytes were given to readers. Waited is how long those of Misses waited, all
	// together, in seconds.
	Bytes  int64   `json:"bytes"`
	Waited float64 `json:"waitedSeconds"`
	// Requests and Fetched count range requests and blob bytes by priority, since the
	// tree's layers were opened. A layer that several trees have counts for each.
	Requests map[string]int64 `json:"requests"`
	Fetched  map[string]int64 `json:"fetchedBytes"`
	// Start is about the first reads: those an access profile is made of.
	Start *StartAccount `json:"start,omitempty"`
}

// StartAccount is about the first reads of a tree.
type StartAccount struct {
	Over   bool  `json:"over"`   // nothing new was read for a while, or nobody reads any more
	Chunks int   `json:"chunks"` // read
	Needed int64 `json:"neededBytes"`
	// Asked are the blob bytes that a profile asked for, Unread those of them that no
	// chunk read needed.
	Asked  int64 `json:"askedBytes"`
	Unread int64 `json:"unreadBytes"`
}
