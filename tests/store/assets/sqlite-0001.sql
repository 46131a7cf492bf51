BEGIN TRANSACTION;
CREATE TABLE adapters (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	namespace VARCHAR(63) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	task_id INTEGER, 
	task_name VARCHAR(63) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	rank INTEGER NOT NULL, 
	alpha FLOAT NOT NULL, 
	target_modules JSON NOT NULL, 
	origin VARCHAR(16) NOT NULL, 
	base_fingerprint VARCHAR(128) NOT NULL, 
	hypernet_fingerprint VARCHAR(128), 
	generation_key VARCHAR(64), 
	size_bytes INTEGER NOT NULL, 
	metrics JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	data BLOB NOT NULL, 
	CONSTRAINT uq_adapters_namespace_name UNIQUE (namespace, name), 
	CONSTRAINT uq_adapters_namespace_generation_key UNIQUE (namespace, generation_key), 
	CONSTRAINT ck_adapters_id_range CHECK (id BETWEEN 1048576 AND 2147483647), 
	CONSTRAINT ck_adapters_rank_positive CHECK (rank > 0), 
	CONSTRAINT ck_adapters_size_positive CHECK (size_bytes > 0), 
	CONSTRAINT fk_adapters_task_id FOREIGN KEY(task_id) REFERENCES tasks (id) ON DELETE SET NULL, 
	CONSTRAINT fk_adapters_base_fingerprint FOREIGN KEY(base_fingerprint) REFERENCES base_models (fingerprint), 
	CONSTRAINT fk_adapters_hypernet_fingerprint FOREIGN KEY(hypernet_fingerprint) REFERENCES hypernets (fingerprint)
);
INSERT INTO "adapters" VALUES(1048576,'default','sentiment@8a2694ca',1,'sentiment','8a2694ca5bed7632e2b9cfd770f9c1a9cc79736c27f852db0eb58655b060e657',4,4.0,'["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]','generated','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',200,'{"gain": 0.25}','2026-11-23 08:43:03.028672',X'FFE42279F3BD068366A852C1BB9651F3CD18EC08F6A4E724D26FACD2AEB0DAF2A972CD3FA02FD44F487078DE451F5F6C246DEE453351E4D3CA3ACA414C46C1682AFAD1A4022CB28C6202F315321D0E07353297DD2E3CE6C0A49C7FD69AC2C38948994AD13A4C69540AD5E273A876D6C94519B91F242D9E4D2E0CDA1F0C7018740B8216FA818E50225DB52062A5693267552564E784A41534ECFD938092F72643F316130531E617C04597E00F4DDEC84776FC8C7FC779357C4DA6EF1DD79711FB0035C5BF742A2FF6');
INSERT INTO "adapters" VALUES(1048577,'default','sentiment@d71cf666',1,'sentiment','d71cf666ccb3d29a9fbf8d0d2f5b26fac6ff06b26ebc9012ca5c4cf0f2312cdd',4,4.0,'["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]','imported','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',NULL,NULL,200,'{}','2026-11-23 08:43:03.035492',X'C1586BD64803F9426471FB1B63EA694C1EB1EF691F1971D0FD6F86739DCD8717D5E4BA552530A099692C2DD053F182BA11FB2BFEE4481A309F9E56E1E0161E0E6DE4E78E7A646446CBC98B33B2874DA8B98E424E79A4F08F82D59942017B6A26162DCABF39E4C06ED413C0AD581157AB4D8AFBF1C89D3B6C7DA740386F5F18A218F458EFF0E1A9F75E2F2EDE1056DDAE2EE852616A864164A4192F0ACFC8EF2F40A03E55D0E09058CA7269943A38D582E90445B1C34C26E4BED484E0C85B8BC6ACE502FA3C0E7251');
INSERT INTO "adapters" VALUES(1048578,'other','sentiment@fc705e82',4,'sentiment','fc705e821533bd63598926d728aa9d32288aa9ca5c030b32d3db6cfa9d23ddb3',4,4.0,'["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]','imported','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',NULL,NULL,200,'{}','2026-11-23 08:43:03.036971',X'F8C2BECF931AED15F5D3EF2D059D9F3C36EC6D2EC75220CD240786DE399208950E0F160A90D0181807290B553B68E16EE2C9089F1A1BA37A2129C94346A6E42832B300B1893F0DBCFF405E08089C191D9D92BE73DB872764ED7F48E3A815498410998C6B50A33D6E2FE594AA616E38964AC13E2CEEEFE2BC0ECDB9C149EECDF4A06E44C94F68C14858C5EA51943007A695287EA628363BB20D9987DE3BBFEF4AC19A52F073A76100B9D2B0134CB134F96D5EA2F1C505644C32F7A623FA62615067C1080B3D2D47E4');
CREATE TABLE aliases (
	task_id INTEGER NOT NULL, 
	base_fingerprint VARCHAR(128) NOT NULL, 
	alias VARCHAR(63) NOT NULL, 
	adapter_id INTEGER NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (task_id, base_fingerprint, alias), 
	CONSTRAINT fk_aliases_task_id FOREIGN KEY(task_id) REFERENCES tasks (id) ON DELETE CASCADE, 
	CONSTRAINT fk_aliases_base_fingerprint FOREIGN KEY(base_fingerprint) REFERENCES base_models (fingerprint), 
	CONSTRAINT fk_aliases_adapter_id FOREIGN KEY(adapter_id) REFERENCES adapters (id) ON DELETE CASCADE
);
INSERT INTO "aliases" VALUES(1,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','current',1048576);
INSERT INTO "aliases" VALUES(2,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','current',1048576);
INSERT INTO "aliases" VALUES(4,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','current',1048578);
CREATE TABLE base_models (
	fingerprint VARCHAR(128) NOT NULL, 
	model_id TEXT NOT NULL, 
	revision VARCHAR(255) NOT NULL, 
	architecture VARCHAR(255) NOT NULL, 
	module_shapes JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_base_models PRIMARY KEY (fingerprint)
);
INSERT INTO "base_models" VALUES('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','example/tiny','main','LlamaForCausalLM','[["model.layers.0.self_attn.q_proj", 16, 16], ["model.layers.0.mlp.down_proj", 32, 16]]','2026-11-23 08:43:02.997156');
CREATE TABLE hypernets (
	fingerprint VARCHAR(128) NOT NULL, 
	base_fingerprint VARCHAR(128) NOT NULL, 
	embedder_id VARCHAR(255) NOT NULL, 
	rank INTEGER NOT NULL, 
	target_modules JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_hypernets PRIMARY KEY (fingerprint), 
	CONSTRAINT fk_hypernets_base_fingerprint FOREIGN KEY(base_fingerprint) REFERENCES base_models (fingerprint)
);
INSERT INTO "hypernets" VALUES('eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','tiny-encoder',4,'["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]','2026-11-23 08:43:03.000273');
CREATE TABLE hyperplug_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT hyperplug_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "hyperplug_schema" VALUES('0001');
CREATE TABLE task_embeddings (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	task_id INTEGER NOT NULL, 
	namespace VARCHAR(63) NOT NULL, 
	embedder_id VARCHAR(255) NOT NULL, 
	dimension INTEGER NOT NULL, 
	embedding BLOB NOT NULL, 
	CONSTRAINT uq_task_embeddings_task_id_embedder_id UNIQUE (task_id, embedder_id), 
	CONSTRAINT fk_task_embeddings_task_id FOREIGN KEY(task_id) REFERENCES tasks (id) ON DELETE CASCADE
);
INSERT INTO "task_embeddings" VALUES(1,1,'default','tiny-encoder',3,X'0000803F0000000000000000');
INSERT INTO "task_embeddings" VALUES(2,2,'default','tiny-encoder',3,X'0000803F0000000000000000');
INSERT INTO "task_embeddings" VALUES(4,4,'other','tiny-encoder',3,X'00000000000000000000803F');
INSERT INTO "task_embeddings" VALUES(5,5,'default','tiny-encoder',3,X'000000009A99193FCDCC4C3F');
CREATE TABLE task_tags (
	task_id INTEGER NOT NULL, 
	tag VARCHAR(255) NOT NULL, 
	position INTEGER NOT NULL, 
	CONSTRAINT pk_task_tags PRIMARY KEY (task_id, tag), 
	CONSTRAINT fk_task_tags_task_id FOREIGN KEY(task_id) REFERENCES tasks (id) ON DELETE CASCADE
);
INSERT INTO "task_tags" VALUES(1,'reviews',0);
INSERT INTO "task_tags" VALUES(1,'auto',1);
CREATE TABLE tasks (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	namespace VARCHAR(63) NOT NULL, 
	name VARCHAR(63) NOT NULL, 
	description TEXT NOT NULL, 
	description_digest VARCHAR(64) NOT NULL, 
	examples JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT uq_tasks_namespace_name UNIQUE (namespace, name)
);
INSERT INTO "tasks" VALUES(1,'default','sentiment','Label the sentiment of a review: positive or negative','280c3d4f1fbb0267ddfa00534034d2f6d50a7f6af24bf6a6d93b20f3b5976e30','[["Grand!", "positive"], ["D\u00fcr\u2014", "negative"]]','2026-11-23 08:43:03.004584');
INSERT INTO "tasks" VALUES(2,'default','twin','LABEL the sentiment of a  review: positive or negative','280c3d4f1fbb0267ddfa00534034d2f6d50a7f6af24bf6a6d93b20f3b5976e30','[]','2026-11-23 08:43:03.009510');
INSERT INTO "tasks" VALUES(4,'other','sentiment','Do what sentiment says','d8bfadb1dad93e10d478d2adcbd8b0db4b0720288ab1afc0c99e039ee1412719','[]','2026-11-23 08:43:03.012901');
INSERT INTO "tasks" VALUES(5,'default','plain','Do what plain says','51ab96856390683561050ba62ed79d4128c72cb000aaafec73a7c9fc29b055e3','[]','2026-11-23 08:43:03.014670');
CREATE INDEX ix_tasks_namespace_description_digest ON tasks (namespace, description_digest);
CREATE INDEX ix_task_tags_tag ON task_tags (tag);
CREATE INDEX ix_task_embeddings_embedder_id_namespace_id ON task_embeddings (embedder_id, namespace, id);
CREATE INDEX ix_adapters_task_id ON adapters (task_id);
CREATE INDEX ix_aliases_adapter_id ON aliases (adapter_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('adapters',1048579);
INSERT INTO "sqlite_sequence" VALUES('tasks',5);
INSERT INTO "sqlite_sequence" VALUES('task_embeddings',5);
COMMIT;
