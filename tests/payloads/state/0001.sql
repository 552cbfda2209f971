BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE counters (
	name VARCHAR(60) NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "counters" VALUES('invocations',1);
INSERT INTO "counters" VALUES('functions',0);
CREATE TABLE functions (
	function_id VARCHAR(36) NOT NULL, 
	namespace VARCHAR(60) NOT NULL, 
	name VARCHAR(60) NOT NULL, 
	generation INTEGER NOT NULL, 
	runtime VARCHAR(40) NOT NULL, 
	handler VARCHAR(300) NOT NULL, 
	memory INTEGER NOT NULL, 
	timeout INTEGER NOT NULL, 
	init_timeout INTEGER NOT NULL, 
	concurrency INTEGER NOT NULL, 
	tmp INTEGER NOT NULL, 
	environment TEXT NOT NULL, 
	network VARCHAR(10) NOT NULL, 
	layers TEXT NOT NULL, 
	description TEXT NOT NULL, 
	code VARCHAR(64) NOT NULL, 
	code_size BIGINT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	PRIMARY KEY (function_id), 
	CONSTRAINT functions_name UNIQUE (namespace, name)
);
INSERT INTO "functions" VALUES('3f0c9f4e-7d0f-4f57-9a8e-0a4f6c1b2d11','default','greet',2,'python3','index.main_handler',128,3,65,20,512,'{"A":"1"}','nat','[]','says hello','9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08',220,1760000000.0,1760000100.0);
CREATE TABLE invocations (
	seq INTEGER NOT NULL, 
	request_id VARCHAR(64) NOT NULL, 
	namespace VARCHAR(60) NOT NULL, 
	function VARCHAR(60) NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	record TEXT NOT NULL, 
	result BLOB, 
	log BLOB NOT NULL, 
	PRIMARY KEY (seq), 
	CONSTRAINT invocations_request_id UNIQUE (request_id)
);
INSERT INTO "invocations" VALUES(1,'r-0001','default','greet','succeeded',1760000200.0,'{"request_id": "r-0001", "function": "greet", "namespace": "default", "qualifier": "$LATEST", "version": "$LATEST", "type": "sync", "trigger": "", "caused_by": "", "state": "succeeded", "status": 200, "error": null, "start": "cold", "why_cold": "no worker was warm", "created_at": 1760000200.0, "started_at": 1760000200.1, "ended_at": 1760000200.2, "queue_ms": 1.0, "start_ms": 20.0, "run_ms": 3.0, "billed_ms": 3, "memory_bytes": 20000000, "attempts": []}',X'2268656C6C6F2C20776F726C6422',X'6772656574696E6720776F726C640A');
CREATE TABLE usage (
	namespace VARCHAR(60) NOT NULL, 
	function VARCHAR(60) NOT NULL, 
	day VARCHAR(10) NOT NULL, 
	calls BIGINT NOT NULL, 
	failures BIGINT NOT NULL, 
	throttled BIGINT NOT NULL, 
	gb_seconds DOUBLE NOT NULL, 
	billed_ms BIGINT NOT NULL, 
	PRIMARY KEY (namespace, function, day)
);
INSERT INTO "usage" VALUES('default','greet','2025-10-09',1,0,0,0.001,3);
CREATE INDEX invocations_function ON invocations (namespace, function, seq);
COMMIT;
