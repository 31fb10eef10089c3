package agentapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
)

// The pairs that the contract fixes: HTTP for every client, gRPC for the CSI drivers.
func TestTable(t *testing.T) {
	want := map[Code]struct {
		status int
		grpc   codes.Code
	}{
		BadRequest:    {400, codes.InvalidArgument},
		Invalid:       {400, codes.InvalidArgument},
		Unauthorized:  {401, codes.Unauthenticated},
		Forbidden:     {403, codes.PermissionDenied},
		NotFound:      {404, codes.NotFound},
		AlreadyExists: {409, codes.AlreadyExists},
		Busy:          {423, codes.FailedPrecondition},
		TooLarge:      {413, codes.InvalidArgument},
		RateLimited:   {429, codes.Unavailable},
		NoSpace:       {507, codes.ResourceExhausted},
		MetadataError: {500, codes.Internal},
		Quarantined:   {423, codes.FailedPrecondition},
		InternalError: {500, codes.Internal},
		Unavailable:   {503, codes.Unavailable},
		Unsupported:   {501, codes.FailedPrecondition},
	}
	assert.Equal(t, len(table), len(want))
	for code, w := range want {
		err := fmt.Errorf("while testing: %w", Errorf(code, "x"))
		assert.Equal(t, HTTPStatus(err), w.status, code)
		assert.Equal(t, GRPCCode(err), w.grpc, code)
		assert.Assert(t, code.Valid(), code)
		assert.Assert(t, IsCode(FromHTTP(w.status, code, "x"), code))
		assert.Equal(t, GRPCCode(FromHTTP(w.status, "", "")), w.grpc, "bare %d", w.status)
	}
}

func TestErrorWithoutCode(t *testing.T) {
	err := errors.New("boom")
	assert.Equal(t, HTTPStatus(err), 500)
	assert.Equal(t, GRPCCode(err), codes.Internal)
	assert.Equal(t, GRPCCode(nil), codes.OK)
	assert.Equal(t, GRPCCode(fmt.Errorf("x: %w", context.DeadlineExceeded)), codes.DeadlineExceeded)
	assert.Equal(t, GRPCCode(context.Canceled), codes.Canceled)
}

func TestErrorfKeepsTheCause(t *testing.T) {
	err := Errorf(NotFound, "volume %q: %w", "v", fs.ErrNotExist)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.Equal(t, err.Error(), `volume "v": file does not exist`)
	assert.Assert(t, !IsCode(err, Busy))
}

func TestForeignStatus(t *testing.T) {
	assert.Equal(t, GRPCCode(FromHTTP(502, "", "")), codes.Unavailable)
	assert.Equal(t, GRPCCode(FromHTTP(504, "", "")), codes.Unavailable)
	assert.Equal(t, GRPCCode(FromHTTP(418, "TEAPOT", "short and stout")), codes.Internal)
	assert.ErrorContains(t, FromHTTP(418, "TEAPOT", ""), "418")
}

// The table in docs/api.md lists exactly the codes, with their HTTP statuses.
func TestCodesOfDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/api.md")
	assert.NilError(t, err)
	documented := map[Code]int{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[A-Z_`, ]+) \\| (\\d+) \\|").FindAllStringSubmatch(string(document), -1) {
		status, err := strconv.Atoi(row[2])
		assert.NilError(t, err)
		for code := range strings.SplitSeq(row[1], ", ") {
			documented[Code(strings.Trim(code, "`"))] = status
		}
	}
	inCode := map[Code]int{}
	for _, row := range table {
		inCode[row.code] = row.status
	}
	assert.DeepEqual(t, documented, inCode)
}
