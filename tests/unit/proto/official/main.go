// SPDX-License-Identifier: Apache-2.0

// Command official writes the descriptor of the Container Storage Interface, as its own Go module carries it, with
// the files it imports: a serialized google.protobuf.FileDescriptorSet. The version is the one that go.mod pins.
//
//	go run . descriptors.binpb
package main

import (
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: official FILE"))
	}
	set := &descriptorpb.FileDescriptorSet{}
	add(set, csi.File_csi_proto, map[string]bool{})
	written, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		fail(err)
	}
	if err := os.WriteFile(os.Args[1], written, 0o644); err != nil {
		fail(err)
	}
}

// add appends a file behind everything it imports, once.
func add(set *descriptorpb.FileDescriptorSet, file protoreflect.FileDescriptor, seen map[string]bool) {
	if seen[file.Path()] {
		return
	}
	seen[file.Path()] = true
	imports := file.Imports()
	for i := 0; i < imports.Len(); i++ {
		add(set, imports.Get(i).FileDescriptor, seen)
	}
	set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "official:", err)
	os.Exit(1)
}
