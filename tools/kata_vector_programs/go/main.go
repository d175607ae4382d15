// Command kata-vectors asks Kata's Go package for direct volumes, one JSON object a line.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	volume "github.com/kata-containers/kata-containers/src/runtime/pkg/direct-volume"
)

type question struct {
	Do      string            `json:"do"`
	Path    string            `json:"path"`
	Text    []byte            `json:"text"`
	Sandbox string            `json:"sandbox"`
	Record  *volume.MountInfo `json:"record"`
}

type answer struct {
	OK      bool              `json:"ok"`
	Error   string            `json:"error,omitempty"`
	Record  *volume.MountInfo `json:"record,omitempty"`
	Sandbox string            `json:"sandbox,omitempty"`
	Mounted bool              `json:"mounted,omitempty"`
}

func ask(q question) (a answer, err error) {
	switch q.Do {
	case "add":
		err = volume.Add(q.Path, string(q.Text))
	case "write":
		err = volume.AddMountInfo(q.Path, *q.Record)
	case "read":
		a.Record, err = volume.VolumeMountInfo(q.Path)
	case "remove":
		err = volume.Remove(q.Path)
	case "mounted":
		a.Mounted, err = volume.IsVolumeMounted(q.Path)
	case "record-sandbox":
		err = volume.RecordSandboxID(q.Sandbox, q.Path)
	case "find-sandbox":
		a.Sandbox, err = volume.GetSandboxIDForVolume(q.Path)
	default:
		err = fmt.Errorf("nothing is known of %q", q.Do)
	}
	return a, err
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var q question
		err := json.Unmarshal(lines.Bytes(), &q)
		var a answer
		if err == nil {
			a, err = ask(q)
		}
		a.OK = err == nil
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			panic(err)
		}
	}
}
