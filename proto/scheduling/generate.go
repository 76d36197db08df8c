// Package scheduling is the contract of scheduler plug-ins out of process, generated from scheduling.proto.
package scheduling

//go:generate sh -c "protoc --plugin=protoc-gen-go=${DOLLAR}(go tool -n protoc-gen-go) --plugin=protoc-gen-go-grpc=${DOLLAR}(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative scheduling.proto"
