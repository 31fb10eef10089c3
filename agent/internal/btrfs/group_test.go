package btrfs

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gotest.tools/v3/assert"
)

// group is a commitGroup with commits that take 4 ms. It counts them.
type group struct {
	commitGroup
	commits int
	fails   int // the commit that fails
}

func (g *group) commit() error {
	time.Sleep(4 * time.Millisecond)
	g.commits++
	if g.commits == g.fails {
		return errors.New("failed")
	}
	return nil
}

func (g *group) wait() error {
	round := g.join(g.commit)
	<-round.done
	return round.err
}

// client makes changes one after the other. Each change takes 1 ms and a commit.
func (g *group) client(changes int) {
	for range changes {
		time.Sleep(time.Millisecond)
		_ = g.wait()
	}
}

// Eight clients that start in two halves end up in shared commits. They do not cause twice as many.
func TestHalvesMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const changes = 100
		var g group
		var clients sync.WaitGroup
		for i := range 8 {
			time.Sleep(time.Duration(i%2) * 2 * time.Millisecond)
			clients.Go(func() { g.client(changes) })
		}
		clients.Wait()
		synctest.Wait()
		assert.Assert(t, g.commits <= changes+10, "%d commits", g.commits)
	})
}

func TestAloneIsNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		begin := time.Now()
		g.client(10)
		assert.Equal(t, time.Since(begin), 10*5*time.Millisecond)
		synctest.Wait()
		assert.Equal(t, g.commits, 10)
	})
}

// When all clients but one have left, the remaining one waits for the others only once.
func TestThoseWhoLeftAreNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() { g.client(1) })
		}
		clients.Wait()
		begin := time.Now()
		g.client(10)
		assert.Equal(t, time.Since(begin), (10*5+2)*time.Millisecond)
		synctest.Wait()
	})
}

// A caller that arrives during a commit gets a commit that begins later, and the result of that
// commit.
func TestLateCallerHasANewCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := group{fails: 1}
		first := g.join(g.commit)
		time.Sleep(2 * time.Millisecond)
		second := g.join(g.commit)
		<-first.done
		<-second.done
		synctest.Wait()
		assert.ErrorContains(t, first.err, "failed")
		assert.NilError(t, second.err)
		assert.Equal(t, g.commits, 2)
	})
}
