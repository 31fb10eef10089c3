package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

const (
	image      = "docker.io/library/busybox:1.37"
	volumeSize = "16Mi"
	// creators is the number of concurrent creators of objects, like a controller of workloads.
	creators = 8
)

// claimVolumes creates n claims in a namespace and deletes them. It returns the times from the
// first request until the last claim is bound, and until the last volume is gone.
func claimVolumes(ctx context.Context, client kubernetes.Interface, n int) (bound, deleted time.Duration, err error) {
	namespace, err := makeNamespace(ctx, client)
	if err != nil {
		return 0, 0, err
	}
	claims := client.CoreV1().PersistentVolumeClaims(namespace)
	before, err := claims.List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, 0, err
	}
	changes, err := follow(ctx, before.ResourceVersion, claims.Watch)
	if err != nil {
		return 0, 0, err
	}
	defer changes.Stop()
	begin := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	done := map[string]bool{}
	group.Go(func() error {
		err := until(groupCtx, changes, func(e watch.Event) bool {
			if c, ok := e.Object.(*corev1.PersistentVolumeClaim); ok && c.Status.Phase == corev1.ClaimBound {
				done[c.Name] = true
			}
			return len(done) == n
		})
		if err != nil {
			return fmt.Errorf("%d of %d claims are bound: %w", len(done), n, err)
		}
		return nil
	})
	group.Go(func() error {
		making, makingCtx := errgroup.WithContext(groupCtx)
		making.SetLimit(creators)
		for i := range n {
			making.Go(func() error {
				_, err := claims.Create(makingCtx, claim(fmt.Sprint("claim-", i)), metav1.CreateOptions{})
				return err
			})
		}
		return making.Wait()
	})
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	bound = time.Since(begin)
	deleted, err = deleteVolumes(ctx, client, namespace, n)
	return bound, deleted, err
}

func deleteVolumes(ctx context.Context, client kubernetes.Interface, namespace string, n int) (time.Duration, error) {
	volumes := client.CoreV1().PersistentVolumes()
	before, err := volumes.List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	changes, err := follow(ctx, before.ResourceVersion, volumes.Watch)
	if err != nil {
		return 0, err
	}
	defer changes.Stop()
	begin := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return client.CoreV1().PersistentVolumeClaims(namespace).DeleteCollection(groupCtx, metav1.DeleteOptions{}, metav1.ListOptions{})
	})
	group.Go(func() error {
		gone := 0
		return until(groupCtx, changes, func(e watch.Event) bool {
			if e.Type == watch.Deleted {
				gone++
			}
			return gone == n
		})
	})
	err = group.Wait()
	return time.Since(begin), err
}

// startPods alternately starts pods with a new volume and pods with an emptyDir, on one node after
// another. A pod's time runs from the request for its claim, or for the pod, until the pod is
// Ready. The pod is deleted before the next one starts. The first of each kind on each node does
// not count, because programs and images are then read from the disk.
func startPods(ctx context.Context, client kubernetes.Interface, n int) (volume, emptyDir []time.Duration, err error) {
	namespace, err := makeNamespace(ctx, client)
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, nil
	}
	const first = 4
	for i := range first + 2*n {
		node := cluster.NodeName(1 + i/2%2)
		name, claimName, times := fmt.Sprint("empty-", i), "", &emptyDir
		if i%2 == i/4%2 { // alternates which comes first
			name, claimName, times = fmt.Sprint("volume-", i), fmt.Sprint("claim-", i), &volume
		}
		took, err := startPod(ctx, client, namespace, name, claimName, node)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		if i >= first {
			*times = append(*times, took)
		}
	}
	return volume, emptyDir, nil
}

func startPod(ctx context.Context, client kubernetes.Interface, namespace, name, claimName, node string) (time.Duration, error) {
	pods := client.CoreV1().Pods(namespace)
	changes, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return 0, err
	}
	defer changes.Stop()
	begin := time.Now()
	if claimName != "" {
		if _, err := client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx, claim(claimName), metav1.CreateOptions{}); err != nil {
			return 0, err
		}
	}
	if _, err := pods.Create(ctx, pod(name, claimName, node), metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	if err := until(ctx, changes, isReady); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, err
	}
	return took, until(ctx, changes, func(e watch.Event) bool { return e.Type == watch.Deleted })
}

func isReady(e watch.Event) bool {
	p, ok := e.Object.(*corev1.Pod)
	if !ok {
		return false
	}
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// follow watches from a version on. It continues at the same version when the API server ends the
// watch, as it does with a slow client.
func follow(ctx context.Context, version string, start func(context.Context, metav1.ListOptions) (watch.Interface, error)) (watch.Interface, error) {
	return watchtools.NewRetryWatcherWithContext(ctx, version, &cache.ListWatch{WatchFuncWithContext: start})
}

// until reads events until f returns true for one.
func until(ctx context.Context, changes watch.Interface, f func(watch.Event) bool) error {
	for {
		select {
		case e, open := <-changes.ResultChan():
			if !open {
				return fmt.Errorf("the watch has ended")
			}
			if f(e) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func makeNamespace(ctx context.Context, client kubernetes.Interface) (string, error) {
	namespace, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "speed-"}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return namespace.Name, nil
}

func claim(name string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(volumeSize)}},
	}}
}

func pod(name, claimName, node string) *corev1.Pod {
	no, second := false, int64(1)
	source := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	if claimName != "" {
		source = corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName}}
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &second,
		NodeSelector: map[string]string{corev1.LabelHostname: node},
		Containers: []corev1.Container{{
			Name: "main", Image: image, ImagePullPolicy: corev1.PullNever,
			Command:      []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"},
			VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
		}},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: source}},
	}}
}
