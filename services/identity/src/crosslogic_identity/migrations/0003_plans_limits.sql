-- Limits are JSON objects with the fields of the message Limits; what is not there is inherited.
CREATE TABLE plans (
    name                    text PRIMARY KEY CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    description             text NOT NULL DEFAULT '' CHECK (char_length(description) <= 1000),
    key_limits              jsonb NOT NULL DEFAULT '{}',
    environment_limits      jsonb NOT NULL DEFAULT '{}',
    org_limits              jsonb NOT NULL DEFAULT '{}',
    priority                text NOT NULL DEFAULT 'normal' CHECK (priority IN ('high', 'normal', 'low')),
    billing_mode            text NOT NULL DEFAULT 'serverless' CHECK (billing_mode IN ('serverless', 'reserved')),
    overage_policy          text NOT NULL DEFAULT 'shed' CHECK (overage_policy IN ('shed', 'bill')),
    monthly_cap_picodollars numeric(20, 0) NOT NULL DEFAULT 0 CHECK (monthly_cap_picodollars >= 0),
    max_prompt_tokens       bigint NOT NULL DEFAULT 0 CHECK (max_prompt_tokens >= 0),
    max_output_tokens       bigint NOT NULL DEFAULT 0 CHECK (max_output_tokens >= 0),
    created_at              timestamptz NOT NULL DEFAULT now(),
    updated_at              timestamptz NOT NULL DEFAULT now()
);
INSERT INTO plans (name, description) VALUES ('default', 'What an organisation is on that nobody put on another plan');

ALTER TABLE orgs
    ADD COLUMN plan text NOT NULL DEFAULT 'default' REFERENCES plans (name),
    ADD COLUMN limits jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN reserved_capacity jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN allowed_regions text[] NOT NULL DEFAULT '{}',
    ADD COLUMN monthly_cap_picodollars numeric(20, 0) NOT NULL DEFAULT 0 CHECK (monthly_cap_picodollars >= 0),
    ADD COLUMN status_reason text NOT NULL DEFAULT '' CHECK (char_length(status_reason) <= 1000),
    ADD COLUMN suspended_by text NOT NULL DEFAULT '' CHECK (suspended_by IN ('', 'platform', 'org'));

ALTER TABLE environments
    ADD COLUMN limits jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN max_prompt_tokens bigint NOT NULL DEFAULT 0 CHECK (max_prompt_tokens >= 0),
    ADD COLUMN max_output_tokens bigint NOT NULL DEFAULT 0 CHECK (max_output_tokens >= 0),
    ADD COLUMN fallback_regions text[] NOT NULL DEFAULT '{}',
    ADD COLUMN residency_pinned boolean NOT NULL DEFAULT false,
    ADD COLUMN monthly_cap_picodollars numeric(20, 0) NOT NULL DEFAULT 0 CHECK (monthly_cap_picodollars >= 0),
    ADD COLUMN status_reason text NOT NULL DEFAULT '' CHECK (char_length(status_reason) <= 1000),
    ADD COLUMN suspended_by text NOT NULL DEFAULT '' CHECK (suspended_by IN ('', 'platform', 'org'));

ALTER TABLE api_keys
    ADD COLUMN limits jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN allowed_regions text[] NOT NULL DEFAULT '{}',
    ADD COLUMN allowed_cidrs text[] NOT NULL DEFAULT '{}',
    ADD COLUMN monthly_cap_picodollars numeric(20, 0) NOT NULL DEFAULT 0 CHECK (monthly_cap_picodollars >= 0),
    ADD COLUMN status_reason text NOT NULL DEFAULT '' CHECK (char_length(status_reason) <= 1000),
    ADD COLUMN suspended_by text NOT NULL DEFAULT '' CHECK (suspended_by IN ('', 'platform', 'org'));
