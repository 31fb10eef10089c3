package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// killLatest is the longest time that the agent works before it is killed.
const killLatest = 600 * time.Millisecond

// kills repeatedly ends the agent with SIGKILL or SIGTERM during changes, while a client keeps
// using its volume.
func (m *machine) kills(journal *Journal) error {
	random := rand.New(rand.NewPCG(m.config.Seed, 0))
	w, err := m.recover(journal, NewWorld(nil))
	if err != nil {
		return err
	}
	entriesOf := func() (*World, error) {
		_, entries, err := OpenJournal(m.config.path("journal"))
		return NewWorld(entries), err
	}
	for i := range m.config.Kills {
		signal := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[random.IntN(2)]
		after := time.Duration(random.Int64N(int64(killLatest)))
		m.config.CheckFirst, m.config.CheckAfter = random.IntN(4) == 0, random.IntN(4) == 0
		if err := m.kill(journal, w, signal, after, m.config.Seed+uint64(i)); err != nil {
			return fmt.Errorf("%v number %d, after %v: %w", signal, i+1, after, err)
		}
		if w, err = entriesOf(); err != nil {
			return err
		}
		fmt.Printf("%v number %d after %v: ", signal, i+1, after.Round(time.Millisecond))
		if w, err = m.recover(journal, w); err != nil {
			return fmt.Errorf("%v number %d, after %v: %w", signal, i+1, after, err)
		}
	}
	return errors.Join(m.clearOut(w), m.endAgent(syscall.SIGTERM), m.check(false))
}

func (m *machine) kill(journal *Journal, w *World, signal syscall.Signal, after time.Duration, seed uint64) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	load := &workload{machine: m, journal: journal, world: w, seed: seed}
	ended := make(chan error, 1)
	go func() { ended <- load.run(ctx) }()
	select {
	case err := <-ended:
		return errors.Join(errors.New("the workload ended by itself"), err)
	case <-time.After(after):
	}
	err := m.endAgent(signal)
	cancel()
	if err == nil && m.config.Engine == "kernel" {
		err = m.bringBack() // a mount waits for the agent
	}
	return errors.Join(err, <-ended)
}

// bringBack starts the agent like recover.
func (m *machine) bringBack() error {
	if m.config.CheckFirst {
		if err := m.check(true); err != nil {
			return err
		}
	}
	return m.startAgent()
}
