"""A scheduler plug-in without generated code: nodes that a file names get no new pods, nodes whose names say ssd are better."""
import concurrent.futures, json, sys
import grpc

def describe(request, context):
    return {"name": "maintenance", "version": "1", "filter": True, "score": True}

def verdict(node, closed):
    if node in closed:
        return {"node": node, "reject": "node(s) in maintenance"}
    return {"node": node, "score": 100 if "ssd" in node else 0}

def evaluate(request, context):
    with open(maintenance) as f:
        closed = f.read().split()
    nodes, answers = request["nodes"], []
    for pod in request["pods"]:
        candidates = [nodes[i] for i in pod["candidates"]] if "candidates" in pod else nodes
        answers.append({"uid": pod["uid"], "nodes": [verdict(node, closed) for node in candidates]})
    return {"pods": answers}

def handler(f):
    return grpc.unary_unary_rpc_method_handler(f, json.loads, lambda answer: json.dumps(answer).encode())

address, maintenance = sys.argv[1:]  # as in: python3 plugin.py unix:///run/maintenance.sock /etc/maintenance
server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
methods = {"Describe": handler(describe), "Evaluate": handler(evaluate)}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("coracle.scheduling.v1alpha1.SchedulerPlugin", methods)])
server.add_insecure_port(address)
server.start()
server.wait_for_termination()
