package api

import (
	"context"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/task"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// fakeTasks records its calls.
type fakeTasks struct {
	asked []any
	task  task.Task
	err   error
}

func (f *fakeTasks) Start(tenant string, s task.Spec) (task.Task, error) {
	f.asked = append(f.asked, tenant, s)
	return f.task, f.err
}

func (f *fakeTasks) List(tenant string, labels []string) ([]task.Task, error) {
	f.asked = append(f.asked, tenant, labels)
	return []task.Task{f.task}, f.err
}

func (f *fakeTasks) Get(tenant, id string) (task.Task, error) {
	f.asked = append(f.asked, tenant, id)
	return f.task, f.err
}

func (f *fakeTasks) Delete(_ context.Context, tenant, id string) error {
	f.asked = append(f.asked, tenant, id)
	return f.err
}

func TestTasks(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := &fakeTasks{task: task.Task{
		Spec: task.Spec{
			Type: "scrub", Timeout: 90 * time.Minute, Options: map[string]string{"readonly": "true"}, Labels: map[string]string{"created-by": "me"},
		},
		ID: "42", Status: task.Running, Progress: 0.25, StartedAt: began,
	}}
	h := start(t, func(c *Config) { c.Tasks = f })

	started := h.do("POST", "/v1/tasks/scrub", `{"timeout":"90m","opts":{"readonly":"true"},"labels":{"created-by":"me"}}`)
	assert.Equal(t, started.status, 202)
	sameJSON(t, started, `{"task_id":"42","status":"running"}`)
	const running = `{"id":"42","type":"scrub","status":"running","progress":0.25,"timeout":"1h30m0s","opts":{"readonly":"true"},
		"labels":{"created-by":"me"},"created_by":"me","created_at":"2026-01-02T03:04:05Z"}`
	sameJSON(t, h.do("GET", "/v1/tasks/42", ""), running)
	sameJSON(t, h.do("GET", "/v1/tasks?label=a=b", ""), `{"tasks":[`+running+`],"total":1}`)
	assert.Equal(t, h.do("DELETE", "/v1/tasks/42", "").status, 204)
	assert.DeepEqual(t, f.asked, []any{"a", f.task.Spec, "a", "42", "a", []string{"a=b"}, "a", "42"})

	f.task = task.Task{
		Spec: task.Spec{Type: "scrub"}, ID: "43", Status: task.Failed, Error: "why", Result: task.Result{"csum_errors": 3},
		StartedAt: began, EndedAt: began.Add(time.Second),
	}
	sameJSON(t, h.do("GET", "/v1/tasks/43", ""), `{"id":"43","type":"scrub","status":"failed","error":"why","progress":0,"result":{"csum_errors":3},
		"opts":{},"labels":{},"created_by":"","created_at":"2026-01-02T03:04:05Z","completed_at":"2026-01-02T03:04:06Z"}`)
}

func TestBadTasks(t *testing.T) {
	f := &fakeTasks{err: agentapi.Errorf(agentapi.Busy, "one runs")}
	h := start(t, func(c *Config) { c.Tasks = f })
	assert.Equal(t, h.do("POST", "/v1/tasks/scrub", `{}`).code(t), agentapi.Busy)
	f.err = agentapi.Errorf(agentapi.NotFound, "no such task")
	assert.Equal(t, h.do("GET", "/v1/tasks/1", "").code(t), agentapi.NotFound)
	asked := len(f.asked)

	for body, code := range map[string]agentapi.Code{
		``:                        agentapi.BadRequest,
		`{"timeout":5}`:           agentapi.BadRequest,
		`{"opts":{"readonly":1}}`: agentapi.BadRequest,
		`{"unknown":1}`:           agentapi.BadRequest,
		`{"timeout":"soon"}`:      agentapi.Invalid,
		`{"timeout":"0s"}`:        agentapi.Invalid,
		`{"timeout":"-1h"}`:       agentapi.Invalid,
	} {
		assert.Equal(t, h.do("POST", "/v1/tasks/scrub", body).code(t), code, body)
	}
	assert.Equal(t, h.do("GET", "/v1/tasks?limit=3", "").code(t), agentapi.BadRequest)
	assert.Equal(t, h.do("GET", "/v1/tasks", "", "Authorization", "").code(t), agentapi.Unauthorized)
	assert.Equal(t, len(f.asked), asked, "what is refused does not get that far")
}
