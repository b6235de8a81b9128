// containerd's own suite of a snapshotter, over the socket that SNAPSHOTTER names. containerd-suite.test.ts builds and runs it.
package suite

import (
	"context"
	"os"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

func TestSnapshotter(t *testing.T) {
	testsuite.SnapshotterSuite(t, os.Getenv("SUITE"), open)
}

func open(context.Context, string) (snapshots.Snapshotter, func() error, error) {
	connection, err := grpc.Dial(
		"unix://"+os.Getenv("SNAPSHOTTER"),
		grpc.WithInsecure(),
		grpc.WithAuthority("localhost"), // as containerd itself does
	)
	if err != nil {
		return nil, nil, err
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "unpackd"), connection.Close, nil
}
