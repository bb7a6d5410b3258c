package p9client

// clunkBatch is how many Tclunks the janitor sends before it waits for the
// replies.
const clunkBatch = 64

func (c *Client) newFid() uint32 {
	c.fmu.Lock()
	defer c.fmu.Unlock()
	if n := len(c.free); n > 0 {
		fid := c.free[n-1]
		c.free = c.free[:n-1]
		return fid
	}
	fid := c.next
	c.next++
	return fid
}

// freeFid returns a number the server does not know.
func (c *Client) freeFid(fid uint32) {
	c.fmu.Lock()
	c.free = append(c.free, fid)
	c.fmu.Unlock()
}

// clunkLater leaves the fid to the janitor.
func (c *Client) clunkLater(fid uint32) {
	c.fmu.Lock()
	c.clunks = append(c.clunks, fid)
	c.fmu.Unlock()
	c.nudge()
}

func (c *Client) takeClunks(buf []uint32) []uint32 {
	c.fmu.Lock()
	defer c.fmu.Unlock()
	n := max(0, len(c.clunks)-cap(buf))
	buf = append(buf[:0], c.clunks[n:]...)
	c.clunks = c.clunks[:n]
	return buf
}

// janitor writes flushes and clunks closed files.
func (c *Client) janitor() {
	defer c.wg.Done()
	fids := make([]uint32, 0, min(clunkBatch, max(1, c.opts.MaxInflight/2)))
	calls := make([]*call, 0, cap(fids))
	for {
		select {
		case <-c.wake:
		case <-c.dead:
			return
		}
		for {
			c.kick()
			fids = c.takeClunks(fids)
			if len(fids) == 0 {
				break
			}
			if !c.clunkAll(fids, calls[:0]) {
				return
			}
		}
	}
}

// clunkAll reports false when the client is dead. A refused clunk means the
// server never knew the fid or forgot it: the number is free either way.
func (c *Client) clunkAll(fids []uint32, calls []*call) bool {
	for _, fid := range fids {
		k := c.newCall(tclunk)
		k.req = put32(k.req, fid)
		if c.post(nil, k) != nil {
			return false
		}
		calls = append(calls, k)
	}
	c.kick()
	for i, k := range calls {
		<-k.done
		if k.err != nil && !isErrno(k.err) {
			return false
		}
		k.recycle()
		c.freeFid(fids[i])
	}
	return true
}
