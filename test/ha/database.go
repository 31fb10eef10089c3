package ha

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// rowsName is a file in Config.Dir, on the host: a byte for each committed row.
const rowsName = "rows"

// database is PostgreSQL in a pod's volume, with the user of Debian's package. It accepts requests
// only on a socket in run.
type database struct{ bin, data, run string }

// PostgreSQL returns the directory of the programs of Debian's package, "" without the package.
func PostgreSQL() string {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

func newDatabase(volume string) (*database, error) {
	d := &database{bin: PostgreSQL(), data: filepath.Join(volume, "postgresql")}
	var err error
	if d.run, err = os.MkdirTemp("", "postgresql-"); err != nil {
		return nil, err
	}
	script := `chmod 711 "$2" && mkdir -p "$0" && chown postgres: "$0" "$1"`
	if out, err := exec.Command("sh", "-ec", script, d.data, d.run, volume).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("database: %w: %s", err, out)
	}
	out, err := d.command("initdb", "--no-sync", "--auth=trust", "--no-locale", d.data).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	return d, nil
}

func (d *database) command(program string, args ...string) *exec.Cmd {
	return exec.Command("setpriv", append([]string{
		"--reuid=postgres", "--regid=postgres", "--clear-groups", "--reset-env", filepath.Join(d.bin, program),
	}, args...)...)
}

// start starts the server, and returns when it accepts requests.
func (d *database) start() (*exec.Cmd, error) {
	server := d.command("postgres", "-D", d.data, "-k", d.run, "-c", "listen_addresses=", "-c", "restart_after_crash=off")
	var said bytes.Buffer
	server.Stderr = &said
	if err := server.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(callTime); ; time.Sleep(otherDelay) {
		out, err := d.query("SELECT 1")
		if err == nil {
			return server, nil
		}
		if time.Now().After(deadline) {
			return server, fmt.Errorf("PostgreSQL: %w: %s\n%s", err, out, said.String())
		}
	}
}

func (d *database) query(sql string) (string, error) {
	out, err := d.command("psql", "-h", d.run, "-qAtc", sql, "postgres").CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// serve inserts rows, one per transaction, until SIGTERM. Then all committed rows must be there.
func serve(c Config) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := openNotes(c.Dir)
	if err != nil {
		return err
	}
	d, err := newDatabase(c.Volume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.run)) }()
	server, err := d.start()
	if err != nil {
		return err
	}
	if out, err := d.query("CREATE TABLE rows (n int)"); err != nil {
		return fmt.Errorf("create table: %w: %s", err, out)
	}
	rows, err := d.insert(ctx, c)
	if err != nil {
		n.event(Failed, "PostgreSQL after %d rows: %v", rows, err)
	}
	count, err := d.query("SELECT count(DISTINCT n) FROM rows WHERE n <= " + strconv.Itoa(rows))
	if err != nil || count != strconv.Itoa(rows) {
		n.event(Failed, "PostgreSQL has %s of %d rows that were committed: %v", count, rows, err)
	}
	fmt.Printf("verified %d rows of PostgreSQL\n", rows)
	return errors.Join(server.Process.Signal(syscall.SIGINT), server.Wait()) // a fast shutdown
}

// insert returns how many rows were committed: psql prints each committed row.
func (d *database) insert(ctx context.Context, c Config) (rows int, err error) {
	committed, err := os.OpenFile(filepath.Join(c.Dir, rowsName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, committed.Close()) }()
	session := d.command("psql", "-h", d.run, "-qAt", "-v", "ON_ERROR_STOP=1", "postgres")
	input, err := session.StdinPipe()
	if err != nil {
		return 0, err
	}
	output, err := session.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := session.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(output)
	for ctx.Err() == nil {
		if _, err := fmt.Fprintf(input, "INSERT INTO rows VALUES (%d) RETURNING n;\n", rows+1); err != nil {
			return rows, err
		}
		if !lines.Scan() {
			return rows, errors.Join(io.ErrUnexpectedEOF, lines.Err(), session.Wait())
		}
		rows++
		if _, err := committed.Write([]byte{'.'}); err != nil {
			return rows, err
		}
		wait(ctx, recordDelay)
	}
	return rows, errors.Join(input.Close(), session.Wait())
}
