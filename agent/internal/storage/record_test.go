package storage

import (
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
)

// A record holds every field of what it is made of: one that is forgotten in fields comes back empty.
func TestRecordsHoldEverything(t *testing.T) {
	t.Parallel()
	var v Volume
	fillFields(t, reflect.ValueOf(&v).Elem(), new(int))
	volume := *unpacker((*Volume).fields)(pack(&v, (*Volume).fields))
	assert.Assert(t, reflect.DeepEqual(volume, v), "%+v\n%+v", volume, v)

	var s Snapshot
	fillFields(t, reflect.ValueOf(&s).Elem(), new(int))
	snapshot := *unpacker((*Snapshot).fields)(pack(&s, (*Snapshot).fields))
	assert.Assert(t, reflect.DeepEqual(snapshot, s), "%+v\n%+v", snapshot, s)
}

func TestRecordOfNothing(t *testing.T) {
	t.Parallel()
	var full Volume
	fillFields(t, reflect.ValueOf(&full).Elem(), new(int))
	unpack := unpacker((*Volume).fields)
	unpack(pack(&full, (*Volume).fields)) // of which nothing is left in the next
	v := *unpack(pack(&Volume{}, (*Volume).fields))
	assert.Assert(t, reflect.DeepEqual(v, Volume{}), "%+v", v)
	assert.Assert(t, v.LastAttachAt.IsZero() && v.Labels == "" && v.Refs == nil)
}

// fillFields gives each field of a value another content.
func fillFields(t *testing.T, value reflect.Value, n *int) {
	t.Helper()
	*n++
	switch field := value.Addr().Interface().(type) {
	case *time.Time:
		*field = time.Date(2026, 11, *n, 1, 2, 3, 4_005_006, time.UTC)
		return
	case *netip.Addr:
		*field = netip.MustParseAddr("fe80::1%eth" + strconv.Itoa(*n))
		return
	case *labels.Set:
		*field = labels.Of(map[string]string{"a": "", "key": strings.Repeat("v", 100+*n)})
		return
	}
	switch value.Kind() {
	case reflect.String:
		value.SetString(strings.Repeat("text", 50) + strconv.Itoa(*n))
	case reflect.Bool:
		value.SetBool(true)
	case reflect.Int64:
		value.SetInt(math.MaxInt64 - int64(*n))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		value.SetUint(uint64(*n))
	case reflect.Array:
		for i := range value.Len() {
			fillFields(t, value.Index(i), n)
		}
	case reflect.Slice:
		value.Set(reflect.MakeSlice(value.Type(), 2, 2))
		for i := range value.Len() {
			fillFields(t, value.Index(i), n)
		}
	case reflect.Struct:
		for i := range value.NumField() {
			fillFields(t, value.Field(i), n)
		}
	default:
		t.Fatalf("what is a %s?", value.Type())
	}
}
