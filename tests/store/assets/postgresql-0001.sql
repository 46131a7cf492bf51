CREATE EXTENSION IF NOT EXISTS vector;
CREATE SEQUENCE public.adapter_ids
    AS integer
    START WITH 1048576
    INCREMENT BY 1
    MINVALUE 1048576
    NO MAXVALUE
    CACHE 1;
CREATE TABLE public.adapters (
    id integer DEFAULT nextval('public.adapter_ids'::regclass) NOT NULL,
    namespace character varying(63) NOT NULL,
    name character varying(80) NOT NULL,
    task_id integer,
    task_name character varying(63) NOT NULL,
    digest character varying(64) NOT NULL,
    rank integer NOT NULL,
    alpha double precision NOT NULL,
    target_modules json NOT NULL,
    origin character varying(16) NOT NULL,
    base_fingerprint character varying(128) NOT NULL,
    hypernet_fingerprint character varying(128),
    generation_key character varying(64),
    size_bytes integer NOT NULL,
    metrics json NOT NULL,
    created_at timestamp with time zone NOT NULL,
    data bytea NOT NULL,
    CONSTRAINT ck_adapters_id_range CHECK (((id >= 1048576) AND (id <= 2147483647))),
    CONSTRAINT ck_adapters_rank_positive CHECK ((rank > 0)),
    CONSTRAINT ck_adapters_size_positive CHECK ((size_bytes > 0))
);
CREATE TABLE public.aliases (
    task_id integer NOT NULL,
    base_fingerprint character varying(128) NOT NULL,
    alias character varying(63) NOT NULL,
    adapter_id integer NOT NULL
);
CREATE TABLE public.base_models (
    fingerprint character varying(128) NOT NULL,
    model_id text NOT NULL,
    revision character varying(255) NOT NULL,
    architecture character varying(255) NOT NULL,
    module_shapes json NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.hypernets (
    fingerprint character varying(128) NOT NULL,
    base_fingerprint character varying(128) NOT NULL,
    embedder_id character varying(255) NOT NULL,
    rank integer NOT NULL,
    target_modules json NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.hyperplug_schema (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.task_embeddings (
    id integer NOT NULL,
    task_id integer NOT NULL,
    namespace character varying(63) NOT NULL,
    embedder_id character varying(255) NOT NULL,
    dimension integer NOT NULL,
    embedding public.vector NOT NULL
);
CREATE SEQUENCE public.task_embeddings_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.task_embeddings_id_seq OWNED BY public.task_embeddings.id;
CREATE TABLE public.task_tags (
    task_id integer NOT NULL,
    tag character varying(255) NOT NULL,
    "position" integer NOT NULL
);
CREATE TABLE public.tasks (
    id integer NOT NULL,
    namespace character varying(63) NOT NULL,
    name character varying(63) NOT NULL,
    description text NOT NULL,
    description_digest character varying(64) NOT NULL,
    examples json NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.tasks_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.tasks_id_seq OWNED BY public.tasks.id;
ALTER TABLE ONLY public.task_embeddings ALTER COLUMN id SET DEFAULT nextval('public.task_embeddings_id_seq'::regclass);
ALTER TABLE ONLY public.tasks ALTER COLUMN id SET DEFAULT nextval('public.tasks_id_seq'::regclass);
INSERT INTO public.adapters VALUES (1048577, 'default', 'sentiment@d71cf666', 1, 'sentiment', 'd71cf666ccb3d29a9fbf8d0d2f5b26fac6ff06b26ebc9012ca5c4cf0f2312cdd', 4, 4, '["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]', 'imported', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', NULL, NULL, 200, '{}', '2026-11-23 08:43:22.980208+00', '\xc1586bd64803f9426471fb1b63ea694c1eb1ef691f1971d0fd6f86739dcd8717d5e4ba552530a099692c2dd053f182ba11fb2bfee4481a309f9e56e1e0161e0e6de4e78e7a646446cbc98b33b2874da8b98e424e79a4f08f82d59942017b6a26162dcabf39e4c06ed413c0ad581157ab4d8afbf1c89d3b6c7da740386f5f18a218f458eff0e1a9f75e2f2ede1056ddae2ee852616a864164a4192f0acfc8ef2f40a03e55d0e09058ca7269943a38d582e90445b1c34c26e4bed484e0c85b8bc6ace502fa3c0e7251');
INSERT INTO public.adapters VALUES (1048578, 'other', 'sentiment@fc705e82', 4, 'sentiment', 'fc705e821533bd63598926d728aa9d32288aa9ca5c030b32d3db6cfa9d23ddb3', 4, 4, '["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]', 'imported', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', NULL, NULL, 200, '{}', '2026-11-23 08:43:22.983795+00', '\xf8c2becf931aed15f5d3ef2d059d9f3c36ec6d2ec75220cd240786de399208950e0f160a90d0181807290b553b68e16ee2c9089f1a1ba37a2129c94346a6e42832b300b1893f0dbcff405e08089c191d9d92be73db872764ed7f48e3a815498410998c6b50a33d6e2fe594aa616e38964ac13e2ceeefe2bc0ecdb9c149eecdf4a06e44c94f68c14858c5ea51943007a695287ea628363bb20d9987de3bbfef4ac19a52f073a76100b9d2b0134cb134f96d5ea2f1c505644c32f7a623fa62615067c1080b3d2d47e4');
INSERT INTO public.adapters VALUES (1048576, 'default', 'sentiment@8a2694ca', 1, 'sentiment', '8a2694ca5bed7632e2b9cfd770f9c1a9cc79736c27f852db0eb58655b060e657', 4, 4, '["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]', 'generated', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk', 200, '{"gain": 0.25}', '2026-11-23 08:43:22.967444+00', '\xffe42279f3bd068366a852c1bb9651f3cd18ec08f6a4e724d26facd2aeb0daf2a972cd3fa02fd44f487078de451f5f6c246dee453351e4d3ca3aca414c46c1682afad1a4022cb28c6202f315321d0e07353297dd2e3ce6c0a49c7fd69ac2c38948994ad13a4c69540ad5e273a876d6c94519b91f242d9e4d2e0cda1f0c7018740b8216fa818e50225db52062a5693267552564e784a41534ecfd938092f72643f316130531e617c04597e00f4ddec84776fc8c7fc779357c4da6ef1dd79711fb0035c5bf742a2ff6');
INSERT INTO public.aliases VALUES (1, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'current', 1048576);
INSERT INTO public.aliases VALUES (2, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'current', 1048576);
INSERT INTO public.aliases VALUES (4, 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'current', 1048578);
INSERT INTO public.base_models VALUES ('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'example/tiny', 'main', 'LlamaForCausalLM', '[["model.layers.0.self_attn.q_proj", 16, 16], ["model.layers.0.mlp.down_proj", 32, 16]]', '2026-11-23 08:43:22.916313+00');
INSERT INTO public.hypernets VALUES ('eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'tiny-encoder', 4, '["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]', '2026-11-23 08:43:22.921506+00');
INSERT INTO public.hyperplug_schema VALUES ('0001');
INSERT INTO public.task_embeddings VALUES (1, 1, 'default', 'tiny-encoder', 3, '[1,0,0]');
INSERT INTO public.task_embeddings VALUES (2, 2, 'default', 'tiny-encoder', 3, '[1,0,0]');
INSERT INTO public.task_embeddings VALUES (4, 4, 'other', 'tiny-encoder', 3, '[0,0,1]');
INSERT INTO public.task_embeddings VALUES (5, 5, 'default', 'tiny-encoder', 3, '[0,0.6,0.8]');
INSERT INTO public.task_tags VALUES (1, 'reviews', 0);
INSERT INTO public.task_tags VALUES (1, 'auto', 1);
INSERT INTO public.tasks VALUES (1, 'default', 'sentiment', 'Label the sentiment of a review: positive or negative', '280c3d4f1fbb0267ddfa00534034d2f6d50a7f6af24bf6a6d93b20f3b5976e30', '[["Grand!", "positive"], ["D\u00fcr\u2014", "negative"]]', '2026-11-23 08:43:22.927087+00');
INSERT INTO public.tasks VALUES (2, 'default', 'twin', 'LABEL the sentiment of a  review: positive or negative', '280c3d4f1fbb0267ddfa00534034d2f6d50a7f6af24bf6a6d93b20f3b5976e30', '[]', '2026-11-23 08:43:22.937548+00');
INSERT INTO public.tasks VALUES (4, 'other', 'sentiment', 'Do what sentiment says', 'd8bfadb1dad93e10d478d2adcbd8b0db4b0720288ab1afc0c99e039ee1412719', '[]', '2026-11-23 08:43:22.945129+00');
INSERT INTO public.tasks VALUES (5, 'default', 'plain', 'Do what plain says', '51ab96856390683561050ba62ed79d4128c72cb000aaafec73a7c9fc29b055e3', '[]', '2026-11-23 08:43:22.948415+00');
SELECT pg_catalog.setval('public.adapter_ids', 1048579, true);
SELECT pg_catalog.setval('public.task_embeddings_id_seq', 5, true);
SELECT pg_catalog.setval('public.tasks_id_seq', 5, true);
ALTER TABLE ONLY public.hyperplug_schema
    ADD CONSTRAINT hyperplug_schema_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.adapters
    ADD CONSTRAINT pk_adapters PRIMARY KEY (id);
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT pk_aliases PRIMARY KEY (task_id, base_fingerprint, alias);
ALTER TABLE ONLY public.base_models
    ADD CONSTRAINT pk_base_models PRIMARY KEY (fingerprint);
ALTER TABLE ONLY public.hypernets
    ADD CONSTRAINT pk_hypernets PRIMARY KEY (fingerprint);
ALTER TABLE ONLY public.task_embeddings
    ADD CONSTRAINT pk_task_embeddings PRIMARY KEY (id);
ALTER TABLE ONLY public.task_tags
    ADD CONSTRAINT pk_task_tags PRIMARY KEY (task_id, tag);
ALTER TABLE ONLY public.tasks
    ADD CONSTRAINT pk_tasks PRIMARY KEY (id);
ALTER TABLE ONLY public.adapters
    ADD CONSTRAINT uq_adapters_namespace_generation_key UNIQUE (namespace, generation_key);
ALTER TABLE ONLY public.adapters
    ADD CONSTRAINT uq_adapters_namespace_name UNIQUE (namespace, name);
ALTER TABLE ONLY public.task_embeddings
    ADD CONSTRAINT uq_task_embeddings_task_id_embedder_id UNIQUE (task_id, embedder_id);
ALTER TABLE ONLY public.tasks
    ADD CONSTRAINT uq_tasks_namespace_name UNIQUE (namespace, name);
CREATE INDEX ix_adapters_task_id ON public.adapters USING btree (task_id);
CREATE INDEX ix_aliases_adapter_id ON public.aliases USING btree (adapter_id);
CREATE INDEX ix_task_embeddings_embedder_id_namespace_id ON public.task_embeddings USING btree (embedder_id, namespace, id);
CREATE INDEX ix_task_tags_tag ON public.task_tags USING btree (tag);
CREATE INDEX ix_tasks_namespace_description_digest ON public.tasks USING btree (namespace, description_digest);
ALTER TABLE ONLY public.adapters
    ADD CONSTRAINT fk_adapters_base_fingerprint FOREIGN KEY (base_fingerprint) REFERENCES public.base_models(fingerprint);
ALTER TABLE ONLY public.adapters
    ADD CONSTRAINT fk_adapters_hypernet_fingerprint FOREIGN KEY (hypernet_fingerprint) REFERENCES public.hypernets(fingerprint);
ALTER TABLE ONLY public.adapters
    ADD CONSTRAINT fk_adapters_task_id FOREIGN KEY (task_id) REFERENCES public.tasks(id) ON DELETE SET NULL;
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT fk_aliases_adapter_id FOREIGN KEY (adapter_id) REFERENCES public.adapters(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT fk_aliases_base_fingerprint FOREIGN KEY (base_fingerprint) REFERENCES public.base_models(fingerprint);
ALTER TABLE ONLY public.aliases
    ADD CONSTRAINT fk_aliases_task_id FOREIGN KEY (task_id) REFERENCES public.tasks(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.hypernets
    ADD CONSTRAINT fk_hypernets_base_fingerprint FOREIGN KEY (base_fingerprint) REFERENCES public.base_models(fingerprint);
ALTER TABLE ONLY public.task_embeddings
    ADD CONSTRAINT fk_task_embeddings_task_id FOREIGN KEY (task_id) REFERENCES public.tasks(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.task_tags
    ADD CONSTRAINT fk_task_tags_task_id FOREIGN KEY (task_id) REFERENCES public.tasks(id) ON DELETE CASCADE;
